// The types of /uplot.js, which scripts/build-site.ts copies from the package.
export { default } from 'uplot'
