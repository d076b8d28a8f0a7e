// The type of a style sheet that a script imports: the build puts its text into the module.
declare module '*.css' {
  const text: string
  export default text
}
