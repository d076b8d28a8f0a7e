// The time that work takes on the CPU. Unlike the time on the wall it does not depend on what else
// the machine does, so a test can bound it.

/** The CPU time of synchronous work in this thread, in ms. */
export function cpuMs(work: () => void): number {
  const before = process.threadCpuUsage()
  work()
  const { user, system } = process.threadCpuUsage(before)
  return (user + system) / 1000
}
