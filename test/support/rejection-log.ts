// A main module around another one, for what the runtime keeps to itself.

/** Makes a line in the log of each rejection that nobody handles; `main` is found by its name. */
export const withRejectionLog = (main: string) => `
import worker from './${main}'
export * from './${main}'
addEventListener('unhandledrejection', ({ reason }) => {
  console.log('unhandled rejection: ' + (reason?.stack ?? reason))
})
export default worker
`
