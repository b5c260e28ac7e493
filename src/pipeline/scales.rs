//! Whether slides are of one scale, where patches are cut in level-0 pixels: 1024 px are 0.25 mm at 40x and 0.5 mm at 20x.

use std::path::Path;

use crate::error::{Error, Result};

/// Slides are of one scale if no pixel is larger than another by more than this factor.
pub const MOST_RATIO: f64 = 1.2;

/// The finest and the coarsest of some scales in µm per pixel.
pub fn range(mpp: impl IntoIterator<Item = f64>) -> Option<[f64; 2]> {
    mpp.into_iter().fold(None, |range, mpp| match range {
        None => Some([mpp; 2]),
        Some([finest, coarsest]) => Some([mpp.min(finest), mpp.max(coarsest)]),
    })
}

/// Refuses slides of several scales; those that do not say theirs are `None`.
///
/// # Errors
/// Scales that differ by more than [`MOST_RATIO`]: how many slides have which, and what to set.
pub fn check(mpp: &[Option<f64>]) -> Result<()> {
    let mut known: Vec<f64> = mpp.iter().copied().flatten().collect();
    known.sort_by(f64::total_cmp);
    let [Some(&finest), Some(&coarsest)] = [known.first(), known.last()] else { return Ok(()) };
    if coarsest <= finest * MOST_RATIO {
        return Ok(());
    }
    let mut groups: Vec<Vec<f64>> = Vec::new();
    for mpp in known {
        match groups.last_mut() {
            Some(group) if mpp <= group[0] * MOST_RATIO => group.push(mpp),
            _ => groups.push(vec![mpp]),
        }
    }
    let group = |of: &Vec<f64>| {
        let (first, last) = (number(of[0]), number(of[of.len() - 1]));
        let scale = if first == last { first } else { format!("{first} to {last}") };
        format!("{} at {scale} µm/px", of.len())
    };
    let groups: Vec<String> = groups.iter().map(group).collect();
    let silent = mpp.iter().filter(|mpp| mpp.is_none()).count();
    let silent = if silent > 0 { format!(" ({silent} do not say)") } else { String::new() };
    Err(Error::Usage(format!(
        "the slides are of several scales: {}{silent}; set select.mpp = {} to cut all patches at that scale, or leave the \
         slides of other scales out",
        groups.join(", "),
        number(coarsest)
    )))
}

/// Refuses a slide that a run was not made for. Where one of them does not say its scale nothing is known, and a remark returned.
///
/// # Errors
/// The slide's scale differs from the run's slides' by more than [`MOST_RATIO`].
pub fn check_new(slide: &Path, mpp: Option<f64>, run: Option<[f64; 2]>) -> Result<Option<String>> {
    let (Some(mpp), Some([finest, coarsest])) = (mpp, run) else {
        let who = if mpp.is_none() {
            "does not say its scale"
        } else {
            "was not checked: the run's slides do not say their scale"
        };
        return Ok(Some(format!("{}: {who}; its pixels are taken to be as large as the run's", slide.display())));
    };
    if mpp.max(coarsest) <= mpp.min(finest) * MOST_RATIO {
        return Ok(None);
    }
    let scale = if finest == coarsest { number(finest) } else { format!("{} to {}", number(finest), number(coarsest)) };
    Err(Error::input(
        slide,
        format!("has {} µm/px, the run's slides {scale}", number(mpp)),
        "give its scale with --mpp or --mpp-table if that is wrong; a run with select.mpp reads slides of any scale",
    ))
}

/// At most four digits behind the point.
fn number(mpp: f64) -> String {
    format!("{mpp:.4}").trim_end_matches('0').trim_end_matches('.').to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_scales_are_counted_and_named() {
        assert!(check(&[]).is_ok() && check(&[None, None]).is_ok());
        assert!(check(&[Some(0.25), Some(0.2265), None, Some(0.2528)]).is_ok());
        let mixed = [Some(0.25), Some(0.5), None, Some(0.2528), Some(0.5), Some(1.0), Some(0.2528), Some(0.2465)];
        let said = check(&mixed).expect_err("three scales").to_string();
        for part in
            ["4 at 0.2465 to 0.2528 µm/px", "2 at 0.5 µm/px", "1 at 1 µm/px", "(1 do not say)", "select.mpp = 1 "]
        {
            assert!(said.contains(part), "{part}: {said}");
        }
    }

    #[test]
    fn a_new_slide_is_held_against_the_runs() {
        let of = |mpp, run| check_new(Path::new("new.svs"), mpp, run);
        assert_eq!(of(Some(0.25), Some([0.2265, 0.2528])).expect("near"), None);
        let said = of(Some(0.5), Some([0.25, 0.25])).expect_err("twice as coarse").to_string();
        assert!(said.contains("new.svs") && said.contains("0.5 µm/px") && said.contains("0.25"), "{said}");
        assert!(of(Some(0.2), Some([0.25, 0.25])).is_err() && of(Some(0.21), Some([0.25, 0.25])).is_ok());
        assert!(of(None, Some([0.25, 0.25])).expect("unknown").is_some());
        assert!(of(Some(0.25), None).expect("unknown").is_some());
        assert_eq!(range([0.5, 0.25, 0.3]), Some([0.25, 0.5]));
    }
}
