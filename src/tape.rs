//! The tape: a list of what was computed, owned by whoever wants gradients of it.
//!
//! Ownership says what flags say elsewhere. While a [`Tape`] lives, ops on the tensors it watches, and on everything
//! computed from those, are recorded. [`Tape::grad`] borrows the tape and records its own sweep, so gradients can be
//! differentiated again; [`Tape::backward`] consumes it and frees as it goes. No tape alive: nothing is recorded. A tape
//! alive: in-place updates are errors. The list is in order, so there is no sort, no recursion, and the order of
//! accumulation, hence every bit, is fixed.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    fmt,
    rc::Rc,
};

use crate::{
    device::nvtx,
    dtype::DType,
    error::{Error, Result},
    op::Op,
    shape::Spec,
    tensor::{Tensor, TensorId},
};

thread_local! {
    /// The tapes alive on this thread, outermost first.
    static LIVE: RefCell<Vec<Rc<RefCell<Log>>>> = const { RefCell::new(Vec::new()) };
}

/// Records until it is dropped or consumed.
pub struct Tape {
    log: Rc<RefCell<Log>>,
}

#[derive(Default)]
struct Log {
    entries: Vec<Entry>,
    watched: Vec<TensorId>,
    /// Watched tensors and everything computed from them.
    tracked: HashSet<TensorId>,
    /// Watched tensors at the types they were cast to.
    casts: HashMap<(TensorId, DType), Tensor>,
}

/// One applied op: what it read, what it wrote, and of those what its gradient needs.
#[derive(Clone)]
struct Entry {
    op: Rc<dyn Op>,
    x: Vec<Kept>,
    y: Vec<Kept>,
}

/// A tensor the tape remembers: whole where a gradient rule reads it, else only its identity and shape.
#[derive(Clone)]
pub struct Kept {
    id: TensorId,
    pub spec: Spec,
    tensor: Option<Tensor>,
}

/// Which inputs and outputs an op's gradient rule reads. Bit `i` stands for the `i`-th.
#[derive(Clone, Copy)]
pub struct Keep {
    pub x: u32,
    pub y: u32,
}

impl Keep {
    pub const NONE: Keep = Keep { x: 0, y: 0 };
    pub const INPUTS: Keep = Keep { x: u32::MAX, y: 0 };
    pub const OUTPUTS: Keep = Keep { x: 0, y: u32::MAX };
    pub const ALL: Keep = Keep { x: u32::MAX, y: u32::MAX };
}

/// What an op's gradient rule is given.
pub struct Vjp<'a> {
    op: &'static str,
    x: &'a [Kept],
    y: &'a [Kept],
    dy: &'a [Option<Tensor>],
    need: &'a [bool],
}

impl Vjp<'_> {
    /// The `i`-th input. The op's `keep` must name it.
    pub fn x(&self, i: usize) -> &Tensor {
        self.x[i].tensor.as_ref().unwrap_or_else(|| panic!("{}: keep() does not name input {i}", self.op))
    }

    /// The `i`-th output. The op's `keep` must name it.
    pub fn y(&self, i: usize) -> &Tensor {
        self.y[i].tensor.as_ref().unwrap_or_else(|| panic!("{}: keep() does not name output {i}", self.op))
    }

    /// How many inputs the op was given.
    pub fn inputs(&self) -> usize {
        self.x.len()
    }

    pub fn x_spec(&self, i: usize) -> Spec {
        self.x[i].spec
    }

    /// Gradient arriving at the `i`-th output; absent where no path leads from it to the loss.
    pub fn dy(&self, i: usize) -> Option<&Tensor> {
        self.dy[i].as_ref()
    }

    /// Gradient arriving at the only differentiable output (present whenever the rule is called for a one-output op).
    pub fn upstream(&self) -> Result<&Tensor> {
        self.dy(0).ok_or(Error::OrderExceeded { op: self.op })
    }

    /// Whether anybody asked for the gradient of the `i`-th input.
    pub fn need(&self, i: usize) -> bool {
        self.need[i]
    }

    /// `Some(gradient)` of input `i` if it is needed.
    pub fn when(&self, i: usize, gradient: impl FnOnce() -> Result<Tensor>) -> Result<Option<Tensor>> {
        if self.need[i] { gradient().map(Some) } else { Ok(None) }
    }
}

/// Gradients by the tensor they belong to.
pub struct Grads(HashMap<TensorId, Tensor>);

impl Grads {
    /// `None` where no path leads from the tensor to the loss.
    pub fn get(&self, tensor: &Tensor) -> Option<&Tensor> {
        self.0.get(&tensor.id())
    }
}

/// Whether any tape is alive on this thread.
pub fn alive() -> bool {
    LIVE.with_borrow(|live| !live.is_empty())
}

/// Called by `op::apply` alone: remembers an applied op on every tape that tracks one of its inputs.
pub(crate) fn record(op: &Rc<dyn Op>, x: &[&Tensor], y: &[Tensor]) {
    LIVE.with_borrow(|live| {
        for log in live {
            let log = &mut *log.borrow_mut();
            if x.iter().any(|t| log.tracked.contains(&t.id())) {
                log.tracked.extend(y.iter().map(Tensor::id));
                let keep = op.keep();
                let kept = |mask: u32, i: usize, t: &Tensor| Kept {
                    id: t.id(),
                    spec: t.spec(),
                    tensor: (mask >> i.min(31) & 1 == 1).then(|| t.clone()),
                };
                log.entries.push(Entry {
                    op: op.clone(),
                    x: x.iter().enumerate().map(|(i, t)| kept(keep.x, i, t)).collect(),
                    y: y.iter().enumerate().map(|(i, t)| kept(keep.y, i, t)).collect(),
                });
            }
        }
    });
}

/// What `cast` makes of a tensor that the innermost tape watches, made once in the life of that tape however often it is asked
/// for; of any other tensor made anew.
pub(crate) fn cast_once(of: &Tensor, to: DType, cast: impl FnOnce() -> Result<Tensor>) -> Result<Tensor> {
    let innermost = LIVE.with_borrow(|live| live.last().cloned());
    let Some(log) = innermost.filter(|log| log.borrow().watched.contains(&of.id())) else { return cast() };
    if let Some(held) = log.borrow().casts.get(&(of.id(), to)) {
        return Ok(held.clone());
    }
    let made = cast()?;
    log.borrow_mut().casts.insert((of.id(), to), made.clone());
    Ok(made)
}

impl Tape {
    /// Recording begins on this thread.
    #[allow(clippy::new_without_default)]
    pub fn start() -> Tape {
        let log = Rc::new(RefCell::new(Log::default()));
        LIVE.with_borrow_mut(|live| live.push(log.clone()));
        Tape { log }
    }

    /// From here on, what is computed from these tensors is recorded, and `backward` returns their gradients.
    pub fn watch<'a>(&self, tensors: impl IntoIterator<Item = &'a Tensor>) {
        let mut log = self.log.borrow_mut();
        for tensor in tensors {
            if log.tracked.insert(tensor.id()) {
                log.watched.push(tensor.id());
            }
        }
    }

    /// Entries recorded so far.
    pub fn len(&self) -> usize {
        self.log.borrow().entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Gradients of the sum of `loss` with respect to `wrt`, recorded on this tape: they can be differentiated again.
    /// A tensor that `loss` does not depend on has gradient zero.
    pub fn grad(&self, loss: &Tensor, wrt: &[&Tensor]) -> Result<Vec<Tensor>> {
        self.grad_from(&[(loss, loss.ones_like()?)], wrt)
    }

    /// As [`Tape::grad`], with the gradients arriving at several results given.
    pub fn grad_from(&self, seeds: &[(&Tensor, Tensor)], wrt: &[&Tensor]) -> Result<Vec<Tensor>> {
        let entries: Vec<Entry> = self.log.borrow().entries.clone();
        let targets: Vec<TensorId> = wrt.iter().map(|t| t.id()).collect();
        let on_path = reachable(&entries, &targets);
        let mut grads = seed(seeds)?;
        for entry in entries.iter().rev() {
            sweep(entry, &on_path, &targets, &mut grads)?;
        }
        wrt.iter().map(|t| grads.get(&t.id()).cloned().map_or_else(|| t.zeros_like(), Ok)).collect()
    }

    /// Gradients of the sum of `loss` with respect to every watched tensor, as plain numbers. Consumes the tape: each
    /// entry is dropped as soon as it has been used.
    pub fn backward(self, loss: &Tensor) -> Result<Grads> {
        let ones = loss.ones_like()?;
        self.backward_from(&[(loss, ones)])
    }

    /// As [`Tape::backward`], with the gradients arriving at several results given.
    pub fn backward_from(self, seeds: &[(&Tensor, Tensor)]) -> Result<Grads> {
        let _range = nvtx::range("backward");
        let Log { mut entries, watched, .. } = self.log.take();
        drop(self); // the sweep itself is not recorded
        let on_path = reachable(&entries, &watched);
        let mut grads = seed(seeds)?;
        while let Some(entry) = entries.pop() {
            sweep(&entry, &on_path, &watched, &mut grads)?;
        }
        Ok(Grads(grads))
    }
}

impl Drop for Tape {
    fn drop(&mut self) {
        // `try_with`: a tape that outlives its thread's storage has nothing to leave.
        let _ = LIVE.try_with(|live| live.borrow_mut().retain(|log| !Rc::ptr_eq(log, &self.log)));
    }
}

/// Every tensor on a path from `from` towards the end of the list.
fn reachable(entries: &[Entry], from: &[TensorId]) -> HashSet<TensorId> {
    let mut on_path: HashSet<TensorId> = from.iter().copied().collect();
    for entry in entries {
        if entry.x.iter().any(|x| on_path.contains(&x.id)) {
            on_path.extend(entry.y.iter().map(|y| y.id));
        }
    }
    on_path
}

fn seed(seeds: &[(&Tensor, Tensor)]) -> Result<HashMap<TensorId, Tensor>> {
    let mut grads = HashMap::new();
    for (y, dy) in seeds {
        if y.spec() != dy.spec() {
            return Err(Error::shape("backward", format!("gradient {} arrives at {}", dy.shape(), y.shape())));
        }
        accumulate(&mut grads, y.id(), dy.clone())?;
    }
    Ok(grads)
}

fn accumulate(grads: &mut HashMap<TensorId, Tensor>, id: TensorId, d: Tensor) -> Result<()> {
    let sum = match grads.remove(&id) {
        Some(before) => before.add(&d)?,
        None => d,
    };
    grads.insert(id, sum);
    Ok(())
}

/// One step of the backward sweep: turns gradients of an entry's outputs into gradients of its inputs.
fn sweep(
    entry: &Entry,
    on_path: &HashSet<TensorId>,
    targets: &[TensorId],
    grads: &mut HashMap<TensorId, Tensor>,
) -> Result<()> {
    if !entry.y.iter().any(|y| on_path.contains(&y.id) && grads.contains_key(&y.id)) {
        return Ok(());
    }
    let dy: Vec<Option<Tensor>> = entry
        .y
        .iter()
        .map(|y| if targets.contains(&y.id) { grads.get(&y.id).cloned() } else { grads.remove(&y.id) })
        .collect();
    let need: Vec<bool> = entry.x.iter().map(|x| on_path.contains(&x.id)).collect();
    let op = entry.op.name();
    let dx = entry.op.vjp(&Vjp { op, x: &entry.x, y: &entry.y, dy: &dy, need: &need })?;
    debug_assert_eq!(dx.len(), entry.x.len(), "{op}: one gradient per input");
    for ((x, dx), need) in entry.x.iter().zip(dx).zip(need) {
        if let (Some(dx), true) = (dx, need) {
            debug_assert_eq!(dx.shape(), x.spec.shape, "{op}: a gradient has its input's shape");
            accumulate(grads, x.id, dx)?;
        }
    }
    Ok(())
}

/// A numbered listing: `3 matmul [4, 8] [8, 2] -> [4, 2]`.
impl fmt::Display for Tape {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (i, entry) in self.log.borrow().entries.iter().enumerate() {
            write!(f, "{i} {}", entry.op.name())?;
            entry.x.iter().try_for_each(|x| write!(f, " {}", x.spec.shape))?;
            write!(f, " ->")?;
            entry.y.iter().try_for_each(|y| write!(f, " {}", y.spec.shape))?;
            writeln!(f)?;
        }
        Ok(())
    }
}
