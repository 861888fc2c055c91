//! What the output processing of a terminal does with newlines, done here: the kernel does it a character at a time.

/// Copied a byte at a time where lines are short.
const BLOCK_BYTES: usize = 16;
/// A search for the end of a shorter line costs more than its bytes.
const SHORT_BYTES: usize = 6;

/// Appends `bytes` to `out`, with a carriage return in front of each newline.
pub(crate) fn add_returns(mut bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(bytes.len() + bytes.len() / 8);
    while let Some(length) = memchr::memchr(b'\n', bytes) {
        if length < SHORT_BYTES
            && let Some((block, rest)) = bytes.split_first_chunk::<BLOCK_BYTES>()
        {
            add_returns_within(block, out);
            bytes = rest;
            continue;
        }
        out.extend_from_slice(&bytes[..length]);
        out.extend_from_slice(b"\r\n");
        bytes = &bytes[length + 1..];
    }
    out.extend_from_slice(bytes);
}

/// The same without a branch for each byte.
#[inline]
fn add_returns_within(bytes: &[u8; BLOCK_BYTES], out: &mut Vec<u8>) {
    let mut longer = [0; 2 * BLOCK_BYTES];
    let mut length = 0;
    for &byte in bytes {
        // Written over, unless it is kept.
        longer[length] = b'\r';
        length += usize::from(byte == b'\n');
        longer[length] = byte;
        length += 1;
    }
    out.extend_from_slice(&longer[..length]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_newline_gets_a_return_and_nothing_else_changes() {
        for (bytes, expected) in [
            (&b""[..], &b""[..]),
            (b"\n", b"\r\n"),
            (b"a\n\nb", b"a\r\n\r\nb"),
            (b"a\r\n", b"a\r\r\n"),
            (b"\xff\x00", b"\xff\x00"),
            (&[b'x'; 40], &[b'x'; 40]),
            (&[b'\n'; 16], &b"\r\n".repeat(16)),
            (
                b"0123456789abcde\n0123456789abcdef\n\n",
                b"0123456789abcde\r\n0123456789abcdef\r\n\r\n",
            ),
        ] {
            let mut out = b"<".to_vec();
            add_returns(bytes, &mut out);
            assert_eq!(out, [b"<", expected].concat());
        }
    }
}
