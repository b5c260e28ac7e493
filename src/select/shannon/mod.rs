//! Codec `lz`: a patch's score is the length in bits of a real, decodable encoding of it.
//!
//! That length bounds the patch's Kolmogorov complexity from above (paper 3.1): [`decode`] gives back every pixel, and
//! [`bits`] is 8 times the bytes that [`encode`] writes, without writing them. Integer arithmetic only, and nothing
//! in a chunk depends on another chunk, so that one thread block per chunk can compute the identical number
//! (`kernels/shannon_score.cu`): residuals, contexts, hashes and candidates are functions of a pixel, the greedy parse is a function
//! of the marked pixels, histograms are integer sums, and code lengths follow from them by a fixed algorithm. The state of
//! a chunk (48 KiB of residuals, 16 KiB of candidates, 16 KiB of hash heads or counts, 4 KiB of marks) fits the shared
//! memory of one block.
//!
//! # Method
//! 1. **Chunks** ([`predict`](self)): the image is cut into a grid of nearly equal rectangles of at most 16384 pixels: 128 x 128 in
//!    large images, longer ones where the image is thinner than 128. With `longest(o) = floor(16384 / min(o, 128))`, there are
//!    `ceil(width / longest(height))` columns and `ceil(height / longest(width))` rows; column `i` of `n` begins at
//!    `floor(i * width / n)`.
//! 2. **Prediction**, modulo 256, per channel, within the chunk: the median edge detector of LOCO-I; the first row from the left, the
//!    first column from above, the first pixel from 0. Residuals are folded: 0, -1, 1, -2 ... become 0, 1, 2, 3 ...
//!    Channels are not subtracted from each other; see "What it could be, and is not".
//! 3. **Contexts**: the sizes `(folded + 1) >> 1` of the residuals on the left, above and above right (the samples 3, `3w` and
//!    `max(3w - 3, 3)` back in the chunk of width `w`; 0 before the chunk) are added. At least 2, 5, 9, 15, 24, 36, 56 is
//!    context 1, 2 ... 7; less than 2 is context 0. All channels share the contexts.
//! 4. **Copies**: runs of the last pixel and repeats of an earlier place, whole pixels only, found and chosen by rules that do not depend on the order of
//!    work (module `matches`).
//! 5. **Codes**: one canonical Huffman code per context for its 256 residuals and "a copy starts here", one for lengths, one for
//!    distances (module `huffman`), at most 15 bits a word.
//!
//! # Format
//! Numbers are little-endian; bits fill bytes from the least significant one.
//!
//! | bytes | content |
//! |---|---|
//! | 4 | `ISLZ` |
//! | 1 | version, 2 |
//! | 4, 4 | width and height in pixels, each at least 1, together at most 2^30 bytes of pixels |
//! | 4 | CRC-32 (as in PNG) of the interleaved RGB pixels |
//! | 2 each | payload bytes of every chunk, rows of chunks from the top, each from the left |
//! | ... | the payloads in the same order, nothing after them |
//!
//! A payload as long as the chunk's pixels *is* its pixels (interleaved RGB). A shorter one is a bit string, filled up with zero bits:
//!
//! | bits | content |
//! |---|---|
//! | 1 | `m`: 1 if there are copies |
//! | for each of 8 contexts: 4 if `m`, then lengths | length of the match word (0: unused), code lengths of the 256 folded residuals |
//! | if `m`: lengths, lengths | code lengths of 28 length symbols, of 28 distance symbols |
//! | tokens | until every sample is there: a word of the code of the next sample's context |
//!
//! "Lengths" is the description in `huffman`: gamma(n + 1) with `n` symbols up to the last used one, then per symbol `0` (as the one
//! before, at first 4), `10s`, `1110s` (one or two more or, with s = 1, less), `110` gamma(r) (r unused symbols) or
//! `1111llll`; gamma(v) is as many zeros as v has bits after its leading one, a one, and those bits.
//! A match word stands where a pixel begins, and is followed by the length in pixels less 4 and the distance in pixels less 1, each as
//! a symbol and its extra bits: values 0 and 1 are symbols 0 and 1; a greater value with `e = floor(log2 v)` is symbol
//! `2e + (bit e - 1 of v)` followed by the `e - 1` bits below. A copy takes residuals from the same chunk and may overlap itself.
//!
//! # Bounds on what a broken stream can do
//! [`decode`] claims memory for pixels only after the header and the table of sizes have been found to fit the bytes, never more than
//! [`MAX_PIXEL_BYTES`] plus the stream; every table, word, copy and the last bit are checked, then the checksum.
//!
//! # What it achieves
//! Median size relative to other lossless compressors of the same RGB pixels, and rank correlation (Spearman) with them, over
//! real H&E patches (`tools/peers/shannon_quality.py`); the last column is how far zlib and PNG agree with each other.
//!
//! | patches | n | bits/px | / zlib 1 | / zlib 6 | / zlib 9 | / PNG | rho zlib 6 | rho PNG | zlib 6 with PNG |
//! |---|---|---|---|---|---|---|---|---|---|
//! | three slides, 1024 px | 17 | 11.80 | 0.658 | 0.656 | 0.656 | 0.945 | 0.990 | 0.998 | 0.988 |
//! | 512 px | 74 | 12.11 | 0.664 | 0.659 | 0.665 | 0.955 | 0.976 | 0.998 | 0.974 |
//! | 256 px | 344 | 12.83 | 0.652 | 0.663 | 0.674 | 0.953 | 0.963 | 0.998 | 0.962 |
//! | tiles with pen and without tissue too, 512 px | 29 | 12.19 | 0.655 | 0.666 | 0.743 | 0.949 | 0.832 | 0.996 | 0.848 |
//! | the same in 256 px | 98 | 11.66 | 0.637 | 0.662 | 0.680 | 0.950 | 0.879 | 0.999 | 0.886 |
//!
//! Where pen marks and empty glass are mixed in, zlib on raw pixels ranks them differently from everything that predicts
//! pixels first, PNG included: no score can be near both.

pub(crate) mod bits;
mod chunk;
mod huffman;
pub(crate) mod log2;
mod lz;
mod matches;
pub(crate) mod predict;
mod simd;

pub use lz::{Corrupt, HEADER_BYTES, MAGIC, MAX_PIXEL_BYTES, VERSION, bits, decode, encode, read};
pub(crate) use lz::{assemble, check_size, payloads};
