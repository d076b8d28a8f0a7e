// The types of /uplot.js, which scripts/build-site.ts copies from the package. Has no code.
export { default } from 'uplot'
