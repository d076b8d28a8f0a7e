// Which hosts are private; the refusals of --deploy have the rest.
import { expect, test } from 'vitest'
import { isPrivateHost } from '../../../scripts/setup/hosts.ts'

test.each([
  'https://api.example.com',
  'http://8.8.8.8',
  'http://172.32.0.1',
  'http://172.15.0.1',
  'http://192.169.0.1',
  'http://11.0.0.1',
  'http://[2606:4700::1111]',
  'http://[::ffff:8.8.8.8]',
  'https://localhost.example.com',
  'https://127.0.0.1.example.com',
  'https://fd00.example',
])('%s is public', (url) => {
  expect(isPrivateHost(new URL(url))).toBe(false)
})
