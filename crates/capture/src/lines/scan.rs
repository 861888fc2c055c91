//! Finding the bytes that are more than text. Written so that the compiler makes vector code of it: one pass, no early
//! exit within a block.

const BLOCK_BYTES: usize = 64;

/// How many bytes at the front are whole lines' text: no control characters but newline, tab, and `\r` right before a
/// newline.
pub(super) fn plain_bytes(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(block) = bytes.get(at..at + BLOCK_BYTES + 1) {
        // Most blocks have nothing but text and newlines, which is found out with half the work.
        let is_text = |&byte: &u8| (byte >= 0x20) & (byte != 0x7f) | (byte == b'\n');
        let mut found = false;
        for byte in &block[..BLOCK_BYTES] {
            found |= !is_text(byte);
        }
        if found {
            found = false;
            for (&byte, &next) in block[..BLOCK_BYTES].iter().zip(&block[1..]) {
                found |= !is_plain(byte, next);
            }
        }
        if found {
            break;
        }
        at += BLOCK_BYTES;
    }
    let rest = &bytes[at..];
    let nexts = rest.iter().skip(1).chain(&[0]);
    let plain = rest
        .iter()
        .zip(nexts)
        .position(|(&byte, &next)| !is_plain(byte, next));
    at + plain.unwrap_or(rest.len())
}

#[inline(always)]
fn is_plain(byte: u8, next: u8) -> bool {
    let is_kept = (byte >= 0x20) & (byte != 0x7f) | (byte == b'\n') | (byte == b'\t');
    is_kept | ((byte == b'\r') & (next == b'\n'))
}

/// Where the first newline is. Short lines are searched here, in the lanes of one word: a call costs more than that.
#[inline(always)]
pub(super) fn newline(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    if let Some(first) = bytes.first_chunk() {
        let word = u64::from_le_bytes(*first) ^ (b'\n' as u64 * ONES);
        // The lowest bit that is set is in the first lane that is zero (those above may be wrong).
        let zeros = word.wrapping_sub(ONES) & !word & (0x80 * ONES);
        if zeros != 0 {
            return Some(zeros.trailing_zeros() as usize / 8);
        }
    }
    memchr::memchr(b'\n', bytes)
}

/// How many bytes at the front are text or tabs.
#[inline]
pub(super) fn text_bytes(bytes: &[u8]) -> usize {
    const SHORT_BYTES: usize = 16;
    let is_text = |byte: u8| (byte >= 0x20) & (byte != 0x7f) | (byte == b'\t');
    let mut at = 0;
    while let Some(block) = bytes.get(at..at + SHORT_BYTES) {
        if block
            .iter()
            .fold(false, |found, &byte| found | !is_text(byte))
        {
            break;
        }
        at += SHORT_BYTES;
    }
    let rest = &bytes[at..];
    let text = rest.iter().position(|&byte| !is_text(byte));
    at + text.unwrap_or(rest.len())
}

/// Where a colour (`CSI 1;31 m`) begins here and ends before long: how long it is. It is by far the most frequent
/// sequence in logs, and means nothing to a line.
#[inline]
pub(super) fn colour_bytes(bytes: &[u8]) -> Option<usize> {
    const LONGEST_BYTES: usize = 32;
    let params = bytes.strip_prefix(b"\x1b[")?;
    let params = &params[..params.len().min(LONGEST_BYTES)];
    let length = params
        .iter()
        .position(|byte| !matches!(byte, b'0'..=b'9' | b';' | b':'))?;
    (params[length] == b'm').then_some(length + 3)
}
