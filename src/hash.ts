// SHA-256, hexadecimal digits, and keys derived from a secret.

const HEX = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, '0'))

/** The SHA-256 of a text in UTF-8, as 64 hex digits. */
export async function sha256(text: string): Promise<string> {
  return hex(new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text))))
}

/** Two lower-case hex digits per byte. */
export function hex(bytes: Uint8Array): string {
  let digits = ''
  for (const byte of bytes) digits += HEX[byte]
  return digits
}

/** An HMAC key by HKDF (RFC 5869), so that every use of a secret has a key of its own. */
export async function hmacKey(
  secret: string,
  use: string,
  usages: readonly ('sign' | 'verify')[],
): Promise<CryptoKey> {
  const utf8 = new TextEncoder()
  const bytes = utf8.encode(secret)
  const material = await crypto.subtle.importKey('raw', bytes, 'HKDF', false, ['deriveKey'])
  return await crypto.subtle.deriveKey(
    { name: 'HKDF', hash: 'SHA-256', salt: new Uint8Array(), info: utf8.encode(use) },
    material,
    { name: 'HMAC', hash: 'SHA-256', length: 256 },
    false,
    [...usages],
  )
}
