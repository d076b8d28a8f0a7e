// The time that work takes on the CPU. Unlike the time on the wall it does not depend on what else
// the machine does, so a test can bound it.

/** The CPU time of synchronous work in this thread, in ms. */
export function cpuMs(work: () => void): number {
  const before = process.threadCpuUsage()
  work()
  return msSince(before)
}

/** The CPU time of this thread, in ms, until the work is done. */
export async function cpuMsUntil(work: () => Promise<unknown>): Promise<number> {
  const before = process.threadCpuUsage()
  await work()
  return msSince(before)
}

function msSince(before: NodeJS.CpuUsage): number {
  const { user, system } = process.threadCpuUsage(before)
  return (user + system) / 1000
}
