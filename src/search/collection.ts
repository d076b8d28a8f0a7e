// The addresses of texts that hold all pages of a site. A file of its own, since what reads them is loaded
// with the first page.

/** Whether an address is that of such a text, such as `/llms-full.txt`. */
export const isCollection = ({ pathname }: URL) => /\/llms[\w.-]*\.txt$/i.test(pathname)
