// The type of the file that the build bundles from ask/.
export { Ask } from './ask/ask.js'
