/** A main module that wraps another one, named `main`, and logs unhandled rejections. */
export const withRejectionLog = (main: string) => `
import worker from './${main}'
export * from './${main}'
addEventListener('unhandledrejection', ({ reason }) => {
  console.log('unhandled rejection: ' + (reason?.stack ?? reason))
})
export default worker
`
