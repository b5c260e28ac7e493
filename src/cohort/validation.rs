//! Which of the patients that a fold does not test validate it.

use std::collections::BTreeMap;

use super::splits::SplitPatient;

/// How many of `n` validate: at least one where two are there, and one is left to train on.
fn part_of(n: usize, fraction: f64) -> usize {
    if fraction > 0.0 { ((n as f64 * fraction).round() as usize).max(1).min(n.saturating_sub(1)) } else { 0 }
}

/// Marks the part of the patients that validates, each project's (and class's) in proportion and at least one where there
/// are two. Takes the first of each.
pub(super) fn of_every_project(shuffled: &[&SplitPatient], fraction: f64) -> Vec<bool> {
    let mut projects: BTreeMap<[Option<&str>; 2], Vec<usize>> = BTreeMap::new();
    for (i, p) in shuffled.iter().enumerate() {
        projects.entry([p.project.as_deref(), p.label.as_deref()]).or_default().push(i);
    }
    // Rounded down, the rest to the largest remainders: the whole has the part that was asked for.
    let exact: Vec<f64> = projects.values().map(|p| p.len() as f64 * fraction).collect();
    let mut wanted: Vec<usize> = exact.iter().map(|e| e.floor() as usize).collect();
    let mut by_remainder: Vec<usize> = (0..exact.len()).collect();
    by_remainder.sort_by(|&a, &b| exact[b].fract().total_cmp(&exact[a].fract()).then(a.cmp(&b)));
    let missing = part_of(shuffled.len(), fraction).saturating_sub(wanted.iter().sum());
    by_remainder.into_iter().cycle().take(missing).for_each(|p| wanted[p] += 1);
    let mut valid = vec![false; shuffled.len()];
    for (members, wanted) in projects.values().zip(wanted) {
        let least = usize::from(fraction > 0.0 && members.len() > 1);
        // One patient must be left to train on.
        let n = wanted.max(least).min(members.len() - usize::from(members.len() == shuffled.len()));
        members.iter().take(n).for_each(|&i| valid[i] = true);
    }
    valid
}

/// Marks whole sites that validate, about the wanted part of each project that has several sites; a site counts for the
/// project of most of its patients. `None` where there is one site only.
pub(super) fn of_whole_sites(shuffled: &[&SplitPatient], fraction: f64) -> Option<Vec<bool>> {
    let mut valid = vec![false; shuffled.len()];
    if fraction == 0.0 {
        return Some(valid);
    }
    // In order of their first patients: the shuffle decides.
    let mut sites: Vec<(String, Vec<usize>)> = Vec::new();
    for (i, p) in shuffled.iter().enumerate() {
        let name = p.site_name();
        match sites.iter_mut().find(|(site, _)| *site == name) {
            Some((_, members)) => members.push(i),
            None => sites.push((name, vec![i])),
        }
    }
    if sites.len() < 2 {
        return None;
    }
    let project_of = |members: &[usize]| {
        let mut count: BTreeMap<Option<&str>, usize> = BTreeMap::new();
        members.iter().for_each(|&i| *count.entry(shuffled[i].project.as_deref()).or_default() += 1);
        count.into_iter().max_by_key(|(_, n)| *n).and_then(|(project, _)| project)
    };
    let mut projects: BTreeMap<Option<&str>, Vec<&[usize]>> = BTreeMap::new();
    for (_, members) in &sites {
        projects.entry(project_of(members)).or_default().push(members);
    }
    let chosen: Vec<&[usize]> = projects.values().flat_map(|sites| choose(sites, fraction)).collect();
    let every = || choose(&sites.iter().map(|(_, m)| m.as_slice()).collect::<Vec<_>>(), fraction);
    let chosen = if chosen.is_empty() { every() } else { chosen };
    chosen.into_iter().flatten().for_each(|&i| valid[i] = true);
    Some(valid)
}

/// Sites with about the wanted part of the patients of all: each is taken that brings the sum nearer to it. One at
/// least is taken and one left, where there are two.
fn choose<'a>(sites: &[&'a [usize]], fraction: f64) -> Vec<&'a [usize]> {
    let all: usize = sites.iter().map(|s| s.len()).sum();
    let wanted = part_of(all, fraction);
    let (mut chosen, mut sum) = (Vec::new(), 0);
    for site in sites {
        if chosen.len() + 1 < sites.len() && (sum + site.len()).abs_diff(wanted) < sum.abs_diff(wanted) {
            sum += site.len();
            chosen.push(*site);
        }
    }
    if chosen.is_empty() && sites.len() > 1 {
        chosen.extend(sites.iter().min_by_key(|s| s.len()));
    }
    chosen
}
