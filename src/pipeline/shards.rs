//! A run's slides and networks done by many processes at once, on one machine or on many that see its directory.
//!
//! Each slide and each network is a file of its own and depends on nothing that another process makes at the same time, so that
//! who does what, and in which order, changes no byte. A process begins with its part and then takes what nobody works on, so
//! that the work of one that was killed is done too ([`Claim`]). Nothing that is of the whole run is written: afterwards an
//! ordinary run finds the slides and networks done, gathers them and goes on. Nor is anything removed.

use std::{fmt, str::FromStr};

use serde::Serialize;

use super::{
    LEFT_OUT_FILE, Run, Scale, Stage,
    features::{self, Extraction},
    model_dir,
    patches::SlidePatches,
    plan, read_json,
    scan::{self, Known, LeftOut, Outcome, Scanned, Scoring},
    selection::Selected,
    splits,
};
use crate::{
    device::DeviceId,
    error::{Error, Result},
    io::claim::Claim,
    mil::crossval,
    progress::Progress,
};

/// Which part of a cohort's slides a process begins with: `number` of `of`, from 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shard {
    number: usize,
    of: usize,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Shard, String> {
        let parts = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match parts {
            Some((number, of)) if (1..=of).contains(&number) => Ok(Shard { number, of }),
            _ => Err("give i/n, the part's number from 1 and how many there are: 1/8 to 8/8".into()),
        }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

impl Shard {
    /// The order in which this process looks at so many slides, and whether each is of its own part. The parts of others follow
    /// in turn, each from its end: there its own process arrives last.
    fn order(self, slides: usize) -> impl Iterator<Item = (usize, bool)> {
        let part = move |k: usize| (k % self.of..slides).step_by(self.of);
        let own = part(self.number - 1).map(|slide| (slide, true));
        let others = (self.number..self.number + self.of - 1).flat_map(move |k| part(k).rev());
        own.chain(others.map(|slide| (slide, false)))
    }
}

/// What became of the slides or networks that a process looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Done {
    /// Done here.
    pub here: usize,
    /// Found done.
    pub found: usize,
    /// Another process works on them.
    pub elsewhere: usize,
    pub left_out: usize,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Done { here, found, elsewhere, left_out } = self;
        write!(f, "{here} done here, {found} were done")?;
        if *elsewhere > 0 {
            write!(f, ", others work on {elsewhere}")?;
        }
        if *left_out > 0 {
            write!(f, ", {left_out} left out")?;
        }
        Ok(())
    }
}

/// Scores slides. `run` is shared ([`Run::open_for`]).
///
/// # Errors
/// Those of the machine, and the user's interruption.
pub fn scan(run: &Run, shard: Shard, device: DeviceId, progress: &dyn Progress) -> Result<Done> {
    let progress: &dyn Progress = &run.presence.over(progress);
    let device = device.open()?;
    let slides = &run.cohort.slides;
    run.timed(Stage::Scan, || {
        let mut scoring = Scoring::new(run, &device, progress)?;
        let mut done = Done::default();
        progress.begin("scoring", slides.len() as u64, "slides");
        for (slide, own) in shard.order(slides.len()) {
            progress.check()?;
            let entry = &slides[slide];
            let claim = Claim::take(&scan::state_path(&run.config.out, &entry.id))?;
            if claim.is_some() {
                progress.remark(&entry.id);
                let (state, here) = match scan::known(run, entry, scoring.settings, progress)? {
                    Known::State(state) => (state, false),
                    // Whose part it is has tried; one attempt a process would be as many as there are.
                    Known::Open(scan::Wanted { failed: Some(state), .. }) if !own => (state, false),
                    Known::Open(wanted) => (scoring.score(entry, wanted)?, true),
                };
                match state.outcome {
                    Outcome::Failed { .. } => done.left_out += 1,
                    Outcome::Scored(_) if here => done.here += 1,
                    Outcome::Scored(_) => done.found += 1,
                }
                if own || here {
                    scan::say_why(&state, progress);
                }
            } else {
                done.elsewhere += 1;
            }
            progress.advance(1);
        }
        progress.end();
        Ok(done)
    })
}

/// Encodes the kept patches of slides. `run` is shared.
///
/// # Errors
/// A slide that is not scored, an encoder that has not learned; those of the machine, and the user's interruption.
pub fn features(run: &Run, shard: Shard, device: DeviceId, progress: &dyn Progress) -> Result<Done> {
    let progress: &dyn Progress = &run.presence.over(progress);
    let device = device.open()?;
    let Scanned { selected, .. } = learned_from(run, progress)?;
    plan::check_room(&run.config, features::patches_of(&selected))?;
    run.timed(Stage::Features, || {
        let extraction = Extraction::new(run, &device)?;
        let mut done = Done::default();
        progress.begin("features", features::patches_of(&selected), "patches");
        for (slide, own) in shard.order(selected.len()) {
            progress.check()?;
            let (slide, patches) = (&selected[slide], selected[slide].kept().count() as u64);
            let current = || match own {
                true => extraction.find(slide, progress).map(|found| found.is_some()),
                false => Ok(extraction.store.claims(&slide.entry.id, &extraction.key(slide))),
            };
            match Claim::take(&extraction.store.path_of(&slide.entry.id))? {
                None => {
                    done.elsewhere += 1;
                    progress.advance(patches);
                }
                Some(_claim) if current()? => {
                    done.found += 1;
                    progress.advance(patches);
                }
                Some(_claim) => match extraction.encode(slide, progress)? {
                    Ok(()) => done.here += 1,
                    Err(_) => done.left_out += 1,
                },
            }
        }
        progress.end();
        Ok(done)
    })
}

/// Trains every method's networks of one fold, of one repeat of the cross-validation or of each; both are counted from 0, as
/// predictions.csv does. `run` is shared.
///
/// # Errors
/// Features that are not there; a fold or a repeat that is not; those of the machine, and the user's interruption.
pub fn train(run: &Run, fold: usize, repeat: Option<usize>, device: DeviceId, progress: &dyn Progress) -> Result<Done> {
    let progress: &dyn Progress = &run.presence.over(progress);
    let Scanned { mut selected, selection, .. } = learned_from(run, progress)?;
    let extraction = Extraction::new(run, &device.open()?)?;
    let given_up = given_up(run);
    let (mut stored, mut missing) = (Vec::new(), Vec::new());
    for slide in &selected {
        progress.check()?;
        match extraction.find(slide, progress)? {
            Some(found) => stored.push(found),
            None if given_up.contains(&slide.entry.id) => {}
            None => missing.push(slide.entry.id.clone()),
        }
    }
    if let Some(first) = missing.first() {
        let problem =
            format!("{} of {} slides have no features yet, {first} among them", missing.len(), selected.len());
        return Err(Error::input(&run.config.out, problem, "first run `isg features` on the same configuration"));
    }
    // Training needs the memory that its encoders take.
    drop(extraction);
    selected.retain(|slide: &Selected| stored.iter().any(|found| found.slide == slide.entry.id));
    let (splits, _) = splits(run, &selected)?;
    let numbers = splits.numbers();
    let asked = |(of_repeat, number): &(usize, usize)| *number == fold && repeat.is_none_or(|r| r == *of_repeat);
    let wanted: Vec<usize> = (0..numbers.len()).filter(|&k| asked(&numbers[k])).collect();
    if wanted.is_empty() {
        let repeats = numbers.iter().map(|(repeat, _)| repeat + 1).max().unwrap_or(0);
        let folds = numbers.iter().map(|(_, number)| number + 1).max().unwrap_or(0);
        let given = repeat.map_or(String::new(), |repeat| format!(" --repeat {repeat}"));
        let last = folds.saturating_sub(1);
        let of = if repeats > 1 { format!(", --repeat 0 to {}", repeats - 1) } else { String::new() };
        return Err(Error::Usage(format!("there is no --fold {fold}{given}; give --fold 0 to {last}{of}")));
    }
    let set = features::bags(run, &selection, &selected, stored)?;
    run.timed(Stage::Training, || {
        let mut done = Done::default();
        for train in run.config.methods() {
            let dir = model_dir(&run.config.out, train);
            let [here, elsewhere] = crossval::train_folds(train, &set, &splits, &wanted, &dir, device, progress)?;
            (done.here, done.elsewhere) = (done.here + here, done.elsewhere + elsewhere);
        }
        Ok(done)
    })
}

/// Slides that an ordinary run found no way to encode.
fn given_up(run: &Run) -> Vec<String> {
    let list: Vec<LeftOut> = read_json(&run.path(LEFT_OUT_FILE)).unwrap_or_default();
    list.into_iter().map(|left_out| left_out.slide).collect()
}

/// The slides of a run, of which all are scored and whose encoder has learned what it needs.
fn learned_from(run: &Run, progress: &dyn Progress) -> Result<Scanned> {
    let scanned = scan::scanned(run, progress)?;
    if scanned.selected.is_empty() {
        return Err(Error::Usage("no slide is usable; `isg scan` on the same configuration says why".into()));
    }
    let encoder = &run.config.encoder.encoder;
    for scale in run.config.scales().into_iter().filter(|_| encoder.learns()) {
        let source = SlidePatches::new(&scanned.selected, &run.config, scale)?;
        if !run.at_site(scale, |site| encoder.has_learned(site, &source))? {
            let of = if scale == Scale::Global { "whole patches" } else { "fine patches" };
            let problem = format!("its encoder of {of} has not learned from these slides yet");
            return Err(Error::input(&run.config.out, problem, "first run `isg learn` on the same configuration"));
        }
    }
    Ok(scanned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slide_is_looked_at_once_and_ones_own_first() {
        for (of, slides) in [(1, 5), (3, 10), (4, 3), (8, 0)] {
            for number in 1..=of {
                let shard: Shard = format!("{number}/{of}").parse().expect("a part");
                let order: Vec<(usize, bool)> = shard.order(slides).collect();
                let own = order.iter().take_while(|(_, own)| *own).count();
                assert!(order[own..].iter().all(|(_, own)| !own));
                let mut seen: Vec<usize> = order.iter().map(|(slide, _)| *slide).collect();
                assert!(seen[..own].iter().all(|slide| slide % of == number - 1));
                seen.sort_unstable();
                assert_eq!(seen, (0..slides).collect::<Vec<_>>());
            }
        }
        for wrong in ["0/4", "5/4", "4", "a/b", "1/0", "-1/2", "1/2/3"] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
    }
}
