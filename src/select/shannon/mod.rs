//! Codec `lz`: a patch's score is the length in bits of a real, decodable encoding of it.
//!
//! That length bounds the patch's Kolmogorov complexity from above (paper 3.1): [`decode`] gives back every pixel, and
//! [`bits`] is 8 times the bytes that [`encode`] writes, without writing them. Integer arithmetic only, and nothing
//! in a chunk depends on another chunk, so that one thread block per chunk can compute the identical number
//! (`kernels/shannon.cu`): residuals, contexts, hashes and candidates are functions of a pixel, the greedy parse is a function
//! of the marked pixels, histograms are integer sums, and code lengths follow from them by a fixed algorithm. The state of
//! a chunk (48 KiB of residuals, 8 KiB of candidates, 16 KiB of hash heads or counts, 8 KiB of marks) fits the shared
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
//! 4. **Copies**: runs of the last pixel and repeats of an earlier place, whole pixels only, found and chosen by rules that do
//!    not depend on the order of work (module `matches`).
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
//! Median size relative to other lossless compressors of the same RGB pixels over real H&E patches, all at the settings named
//! (PNG is Pillow's; "optimised" is the best of seven choices of filters under libdeflate 12, as oxipng searches):
//!
//! | patches | n | lz, bits/px | / zlib 1 | / zlib 6 | / zlib 9 | / libdeflate 12 | / zstd 1 | / zstd 19 | / lz4 | / PNG | / PNG optimised | / WebP lossless | / JPEG XL lossless |
//! |---|---|---|---|---|---|---|---|---|---|---|---|---|---|
//! | slides, 1024 px | 17 | 11.45 | 0.640 | 0.638 | 0.642 | 0.665 | 0.622 | 0.694 | 0.576 | 0.926 | 0.940 | 1.217 | 1.300 |
//! | slides, 512 px | 74 | 11.77 | 0.641 | 0.642 | 0.647 | 0.678 | 0.630 | 0.700 | 0.571 | 0.932 | 0.943 | 1.201 | 1.243 |
//! | slides, 256 px | 344 | 12.40 | 0.632 | 0.648 | 0.656 | 0.680 | 0.634 | 0.702 | 0.565 | 0.927 | 0.942 | 1.233 | 1.207 |
//! | tiles, pen and no tissue included, 512 px | 29 | 11.64 | 0.630 | 0.649 | 0.735 | 0.749 | 0.657 | 0.740 | 0.536 | 0.930 | 0.953 | 1.149 | 1.146 |
//! | the same in 256 px | 98 | 11.28 | 0.621 | 0.644 | 0.661 | 0.695 | 0.637 | 0.728 | 0.522 | 0.919 | 0.958 | 1.194 | 1.141 |
//!
//! Rank correlation (Spearman) with them; the last column is how far zlib and PNG agree with each other:
//!
//! | rank correlation with | zlib 1 | zlib 6 | zlib 9 | libdeflate 12 | zstd 1 | zstd 19 | lz4 | PNG | PNG optimised | WebP lossless | JPEG XL lossless | zlib 6 with PNG |
//! |---|---|---|---|---|---|---|---|---|---|---|---|---|
//! | slides, 1024 px | 0.988 | 0.988 | 0.988 | 0.990 | 0.988 | 0.988 | 0.946 | 0.995 | 0.998 | 0.953 | 0.934 | 0.988 |
//! | slides, 512 px | 0.977 | 0.972 | 0.972 | 0.977 | 0.961 | 0.978 | 0.863 | 0.998 | 0.995 | 0.956 | 0.932 | 0.974 |
//! | slides, 256 px | 0.955 | 0.957 | 0.957 | 0.955 | 0.934 | 0.953 | 0.837 | 0.998 | 0.995 | 0.958 | 0.940 | 0.962 |
//! | tiles, pen and no tissue included, 512 px | 0.821 | 0.827 | 0.827 | 0.823 | 0.817 | 0.831 | 0.902 | 0.996 | 0.987 | 0.943 | 0.957 | 0.848 |
//! | the same in 256 px | 0.865 | 0.867 | 0.867 | 0.866 | 0.849 | 0.865 | 0.912 | 0.997 | 0.984 | 0.962 | 0.962 | 0.886 |
//!
//! Where pen marks and empty glass are mixed in, zlib on raw pixels ranks them differently from everything that predicts
//! pixels first, PNG included: no score can be near both, nor at 256 px nearer to one than they are to each other. `tools/peers/shannon_quality.py` makes all tables of this page.
//!
//! # What it could be, and is not
//! What each choice is worth on the 512 px patches, as entropies in the chunk's contexts without any copy (`--anatomy`):
//!
//! | entropy of, without copies | bits/px | median / the choice made | / zlib 6 | / PNG | rho zlib 6 | rho PNG |
//! |---|---|---|---|---|---|---|
//! | lz as it is | 9.749 | 1.010 | 0.645 | 0.932 | 0.972 | 0.999 |
//! | median edge, 8 contexts, 128 px | 9.640 | 1.000 | 0.636 | 0.922 | 0.973 | 0.999 |
//! | Paeth, 8 contexts, 128 px | 9.914 | 1.027 | 0.657 | 0.944 | 0.976 | 0.998 |
//! | mean, 8 contexts, 128 px | 10.337 | 1.066 | 0.683 | 0.984 | 0.975 | 0.996 |
//! | left, 8 contexts, 128 px | 10.959 | 1.141 | 0.730 | 1.055 | 0.976 | 0.994 |
//! | median edge, one context, 128 px | 10.268 | 1.067 | 0.675 | 0.974 | 0.965 | 0.998 |
//! | median edge, 8 contexts, green taken off, 128 px | 8.576 | 0.907 | 0.557 | 0.803 | 0.943 | 0.973 |
//! | median edge, 8 contexts, 32 px | 9.922 | 1.030 | 0.654 | 0.949 | 0.973 | 0.998 |
//! | median edge, 8 contexts, 64 px | 9.720 | 1.009 | 0.640 | 0.930 | 0.973 | 0.999 |
//! | median edge, 8 contexts, 256 px | 9.626 | 0.998 | 0.640 | 0.920 | 0.971 | 0.999 |
//!
//! Taking green off red and blue saves another 9 percent, and costs the rank correlation with zlib that makes the score stand for
//! "a compressor" (0.97 to 0.94): the paper's number is an ordinary compressor's, so channels stay apart. Chunks of 64 px lose 1
//! percent, of 256 px win nothing and fit no block's shared memory. Copies win nothing on tissue, but they are why flat, drawn and
//! periodic images cost next to nothing.
//!
//! Speed on one core of pixels scored, beside compressors of the same patches in the same run (`--speed`; before repeats shorter
//! than six pixels were given up, which made `lz` faster by 5 to 35 percent):
//!
//! | MB/s of pixels, one core | CMU-1-Small-Region.svs | tcga-cr-7395-01a-01-ts1.svs |
//! |---|---|---|
//! | isg lz | 377 | 603 |
//! | isg order0 | 1812 | 1823 |
//! | isg jpeg | 243 | 238 |
//! | isg encode | 137 | 121 |
//! | isg decode | 96 | 75 |
//! | libdeflate 1 | 161 | 101 |
//! | libdeflate 6 | 106 | 69 |
//! | zstd 1 | 363 | 1218 |
//! | zstd 3 | 226 | 481 |
//! | lz4 | 1016 | 4713 |
//! | zlib 6 | 50 | 34 |

pub(crate) mod bits;
mod chunk;
mod huffman;
pub(crate) mod log2;
mod lz;
mod matches;
pub(crate) mod predict;
mod selector;
mod simd;

pub use lz::{Corrupt, HEADER_BYTES, MAGIC, MAX_PIXEL_BYTES, VERSION, bits, decode, encode, read};
pub(crate) use lz::{assemble, check_size, payloads};
pub use selector::{Codec, SPEC, Shannon};
