//! What instructions cost where a kernel spends its time: SASS as nvdisasm prints it, and PTX, as lists of what matters, and the
//! loop in which most of the work is done.

pub mod ptx;
pub mod sass;

use std::{collections::BTreeMap, ops::Range};

use serde::{Deserialize, Serialize};

/// What is multiplied by a matrix instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Element {
    /// f16 and bf16.
    Half,
    Tf32,
    Eight,
    F64,
}

/// What of an instruction counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Mma {
        macs: u64,
        element: Element,
        /// By a warpgroup, from shared memory.
        warpgroup: bool,
    },
    /// From shared memory into registers.
    FragmentLoad,
    /// Bytes to or from global memory, a thread.
    Global(u32),
    Other,
}

/// An instruction and what may run after it.
#[derive(Clone, Copy, Debug)]
pub struct Instruction {
    pub kind: Kind,
    /// Where it may jump to: an index.
    pub target: Option<usize>,
    /// Whether the next one may follow.
    pub falls: bool,
}

/// One kernel.
#[derive(Default, Debug)]
pub struct Code(pub Vec<Instruction>);

/// What a way through code does.
#[derive(Clone, Copy, Default, Debug, PartialEq, Serialize, Deserialize)]
pub struct Work {
    pub instructions: u64,
    pub mmas: u64,
    pub macs: u64,
    pub fragment_loads: u64,
    pub global_bytes: u64,
    /// Of the first matrix instruction: what it multiplies, and whether a warpgroup does.
    pub matrix: Option<(Element, bool)>,
}

impl Work {
    fn add(&mut self, kind: Kind) {
        self.instructions += 1;
        match kind {
            Kind::Mma { macs, element, warpgroup } => {
                self.mmas += 1;
                self.macs += macs;
                self.matrix.get_or_insert((element, warpgroup));
            }
            Kind::FragmentLoad => self.fragment_loads += 1,
            Kind::Global(bytes) => self.global_bytes += u64::from(bytes),
            Kind::Other => {}
        }
    }

    /// Of two ways through the same code, that which multiplies more, then that which moves more, then the shorter: paths
    /// for whole tiles and wide copies, which are what runs.
    fn rank(&self) -> (u64, u64, u64) {
        (self.macs, self.global_bytes, u64::MAX - self.instructions)
    }

    /// What it is for: products, or where there are none, bytes.
    pub fn amount(&self) -> u64 {
        if self.mmas > 0 { self.macs } else { self.global_bytes }
    }
}

impl Code {
    /// What the best way through a stretch does, from its first instruction to one that jumps back there, or without such to the
    /// end of the kernel. Loops inside count once.
    fn path(&self, range: Range<usize>) -> Work {
        let returns = |instruction: &Instruction| instruction.target == Some(range.start);
        let is_loop = self.0[range.clone()].iter().any(returns);
        let mut best: Vec<Option<Work>> = vec![None; range.len()];
        let mut ends: Option<Work> = None;
        let better = |known: &mut Option<Work>, work: Work| {
            if known.is_none_or(|known| known.rank() < work.rank()) {
                *known = Some(work);
            }
        };
        if let Some(first) = best.first_mut() {
            *first = Some(Work::default());
        }
        for at in range.clone() {
            let Some(mut work) = best[at - range.start] else { continue };
            let instruction = &self.0[at];
            work.add(instruction.kind);
            let next = instruction.falls.then_some(at + 1).filter(|next| *next < range.end);
            let jump = instruction.target.filter(|target| *target > at && *target < range.end);
            if is_loop && returns(instruction) || !is_loop && next.is_none() && jump.is_none() {
                better(&mut ends, work);
            }
            next.into_iter().chain(jump).for_each(|to| better(&mut best[to - range.start], work));
        }
        ends.unwrap_or_default()
    }

    /// From where a jump leads back to, to the last jump that does. Jumps to themselves, which stand behind the last
    /// instruction, are none.
    fn loops(&self) -> Vec<Range<usize>> {
        let mut ends = BTreeMap::new();
        for (at, instruction) in self.0.iter().enumerate() {
            if let Some(target) = instruction.target.filter(|&target| target < at) {
                ends.insert(target, at + 1);
            }
        }
        ends.into_iter().map(|(start, end)| start..end).collect()
    }

    /// One round of the loop that does most: multiplies, or where nothing does, moves bytes. Of loops within each other the inner
    /// one. The whole way through the code where most work stands outside of it.
    pub fn hottest(&self) -> Work {
        let whole = self.path(0..self.0.len());
        let multiplies = self.0.iter().any(|instruction| matches!(instruction.kind, Kind::Mma { .. }));
        let loops: Vec<(Range<usize>, Work)> = (self.loops().into_iter())
            .map(|range| (range.clone(), self.path(range)))
            .filter(|(_, work)| if multiplies { work.mmas > 0 } else { work.global_bytes > 0 })
            .collect();
        let within = |inner: &Range<usize>, outer: &Range<usize>| {
            inner != outer && inner.start >= outer.start && inner.end <= outer.end
        };
        let innermost = loops.iter().filter(|(outer, _)| !loops.iter().any(|(inner, _)| within(inner, outer)));
        match innermost.map(|(_, work)| *work).max_by_key(Work::rank) {
            Some(work) if 3 * work.amount() >= whole.amount() => work,
            _ => whole,
        }
    }
}

/// Multiply-adds of a shape such as `m16n8k16` or `64x256x16`, whose numbers stand between letters.
fn shape_macs(text: &str) -> Option<u64> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty());
    let product = numbers.next()?.parse::<u64>().ok()? * numbers.next()?.parse::<u64>().ok()?;
    Some(product * numbers.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOAD: Kind = Kind::Global(16);
    const MMA: Kind = Kind::Mma { macs: 2048, element: Element::Half, warpgroup: false };

    /// `to` jumps there or goes on; `away` only jumps.
    fn code(of: &[(Kind, Option<usize>, bool)]) -> Code {
        Code(of.iter().map(|&(kind, target, falls)| Instruction { kind, target, falls }).collect())
    }

    fn plain(kind: Kind) -> (Kind, Option<usize>, bool) {
        (kind, None, true)
    }

    fn to(target: usize) -> (Kind, Option<usize>, bool) {
        (Kind::Other, Some(target), true)
    }

    fn away(target: usize) -> (Kind, Option<usize>, bool) {
        (Kind::Other, Some(target), false)
    }

    const EXIT: (Kind, Option<usize>, bool) = (Kind::Other, None, false);

    #[test]
    fn the_inner_loop_that_multiplies_is_the_hottest() {
        // A copy loop inside the loop of tiles; the jump to itself at the end is no loop.
        let (nothing, load, mma) = (plain(Kind::Other), plain(LOAD), plain(MMA));
        let tiles = code(&[nothing, load, load, to(1), mma, mma, to(1), nothing, to(0), EXIT, away(10)]);
        let work = tiles.hottest();
        assert_eq!((work.mmas, work.instructions, work.global_bytes), (2, 6, 32));
        assert_eq!(work.matrix, Some((Element::Half, false)));
    }

    #[test]
    fn the_wide_path_counts() {
        // Over 1 a wide copy, over 4 a narrow one in a loop of its own; both meet at 9.
        let narrow = plain(Kind::Global(2));
        let tile = [
            to(4),
            plain(LOAD),
            away(9),
            EXIT,
            narrow,
            narrow,
            narrow,
            to(4),
            plain(Kind::Other),
            plain(MMA),
            to(0),
            EXIT,
        ];
        let work = code(&tile).hottest();
        assert_eq!((work.instructions, work.mmas, work.global_bytes), (5, 1, 16));
    }

    #[test]
    fn without_loops_that_matter_the_whole_way() {
        let load = plain(LOAD);
        let straight = code(&[load, load, load, load, load, plain(Kind::Global(4)), to(5), plain(Kind::Other), EXIT]);
        assert_eq!((straight.hottest().global_bytes, straight.hottest().instructions), (84, 9));
        let two = code(&[load, plain(Kind::Other), to(0), plain(Kind::Global(2)), to(3), EXIT]);
        assert_eq!((two.hottest().global_bytes, two.hottest().instructions), (16, 3));
        assert_eq!(code(&[]).hottest(), Work::default());
    }

    #[test]
    fn shapes_are_read() {
        assert_eq!(shape_macs("m16n8k16"), Some(2048));
        assert_eq!(shape_macs("64x256x16"), Some(262_144));
        assert_eq!(shape_macs("m16n8"), None);
    }
}
