//! The drawings of a report: predicted against measured, intervals of all genes, training curves, colour bars.

use super::{
    Curve, GeneReport,
    colour::{self, GROUPS},
    html,
    svg::{Axis, Drawing},
};

/// CSS class of a group's colour.
fn group(index: usize) -> String {
    format!("g{}", index % GROUPS)
}

/// Predicted over measured expression, one point a sample, coloured by fold, with the identity and the fitted line.
pub fn scatter(gene: &GeneReport) -> String {
    let (width, height) = (280.0, 272.0);
    let (left, right, top, bottom) = (46.0, width - 8.0, 10.0, height - 42.0);
    let finite: Vec<_> = gene.points.iter().filter(|p| p.truth.is_finite() && p.predicted.is_finite()).collect();
    let (low, high) = super::overlay::range(finite.iter().flat_map(|p| [p.truth, p.predicted]));
    let pad = 0.05 * (high - low);
    let x = Axis::linear(low - pad, high + pad, left, right);
    let y = Axis::linear(low - pad, high + pad, bottom, top);
    let mut drawing = Drawing::new(width, height, &format!("{}: predicted over measured expression", gene.title()));
    frame(&mut drawing, &x, &y, (left, right, top, bottom), ("measured", "predicted"));
    drawing.line((x.at(low), y.at(low)), (x.at(high), y.at(high)), "identity");
    if let Some((slope, intercept)) = least_squares(finite.iter().map(|p| (p.truth, p.predicted))) {
        let (from, to) = super::overlay::range(finite.iter().map(|p| p.truth));
        let fitted = |v: f64| (x.at(v), y.at(intercept + slope * v).clamp(top, bottom));
        drawing.line(fitted(from), fitted(to), "fitted");
    }
    for point in &finite {
        let hint = format!(
            "{} ({}), fold {}: measured {:.2}, predicted {:.2}",
            point.slide,
            point.patient,
            point.fold + 1,
            point.truth,
            point.predicted
        );
        drawing.point((x.at(point.truth), y.at(point.predicted)), 3.6, &format!("point {}", group(point.fold)), &hint);
    }
    drawing.finish()
}

/// Slope and intercept; none for fewer than two different abscissae.
fn least_squares(points: impl Iterator<Item = (f64, f64)> + Clone) -> Option<(f64, f64)> {
    let count = points.clone().count() as f64;
    let (mx, my) = points.clone().fold((0.0, 0.0), |(a, b), (x, y)| (a + x / count, b + y / count));
    let (xy, xx) = points.fold((0.0, 0.0), |(xy, xx), (x, y)| (xy + (x - mx) * (y - my), xx + (x - mx) * (x - mx)));
    (xx > 1e-12).then(|| (xy / xx, my - xy / xx * mx))
}

fn frame(
    drawing: &mut Drawing,
    x: &Axis,
    y: &Axis,
    (left, right, top, bottom): (f64, f64, f64, f64),
    (x_label, y_label): (&str, &str),
) {
    for (value, label) in x.ticks(5) {
        drawing.line((x.at(value), top), (x.at(value), bottom), "grid");
        drawing.text((x.at(value), bottom + 15.0), "middle", "tick", &label);
    }
    for (value, label) in y.ticks(5) {
        drawing.line((left, y.at(value)), (right, y.at(value)), "grid");
        drawing.text((left - 6.0, y.at(value) + 3.5), "end", "tick", &label);
    }
    drawing.line((left, bottom), (right, bottom), "axis");
    drawing.line((left, top), (left, bottom), "axis");
    drawing.text((0.5 * (left + right), bottom + 34.0), "middle", "label", x_label);
    drawing.upward_text((13.0, 0.5 * (top + bottom)), "label", y_label);
}

/// One row a gene: its correlation with the confidence interval, zero marked.
pub fn forest(genes: &[&GeneReport]) -> String {
    let row = 26.0;
    let longest = genes.iter().map(|g| g.title().chars().count()).max().unwrap_or(0);
    let (width, left) = (720.0, (24.0 + 8.2 * longest as f64).clamp(70.0, 260.0));
    let (right, top) = (width - 130.0, 10.0);
    let bottom = top + row * genes.len() as f64;
    let mut drawing = Drawing::new(width, bottom + 42.0, "Correlation of every gene with its confidence interval");
    let ends = genes.iter().flat_map(|g| g.pcc.into_iter().chain(g.ci.into_iter().flat_map(|(a, b)| [a, b])));
    let (low, _) = super::overlay::range(ends);
    let x = Axis::linear((low.clamp(-1.0, 0.0) * 5.0).floor() / 5.0, 1.0, left, right);
    for (value, label) in x.ticks(6) {
        drawing.line((x.at(value), top), (x.at(value), bottom), "grid");
        drawing.text((x.at(value), bottom + 15.0), "middle", "tick", &label);
    }
    drawing.line((x.at(0.0), top), (x.at(0.0), bottom), "axis");
    drawing.text(
        (0.5 * (left + right), bottom + 34.0),
        "middle",
        "label",
        "Pearson correlation, held out, mean over folds",
    );
    for (i, gene) in genes.iter().enumerate() {
        let y = top + row * (i as f64 + 0.5);
        drawing.text((left - 10.0, y + 4.0), "end", "name", &gene.title());
        let ci = gene.ci.filter(|(low, high)| low.is_finite() && high.is_finite());
        let clear = ci.is_some_and(|(low, high)| low > 0.0 || high < 0.0);
        let class = if clear { "clear" } else { "unclear" };
        if let Some((low, high)) = ci {
            let span = (x.at(low.clamp(-1.0, 1.0)), x.at(high.clamp(-1.0, 1.0)));
            drawing.line((span.0, y), (span.1, y), &format!("whisker {class}"));
        }
        if let Some(pcc) = gene.pcc.filter(|v| v.is_finite()) {
            drawing.point((x.at(pcc), y), 5.5, &format!("dot {class}"), &gene.title());
        }
        let interval = ci.map(|(a, b)| format!(" [{}, {}]", html::fixed(Some(a), 2), html::fixed(Some(b), 2)));
        let text = format!("{}{}", html::fixed(gene.pcc, 2), interval.unwrap_or_default());
        drawing.text((right + 14.0, y + 4.0), "start", "tick", &text);
    }
    drawing.finish()
}

/// Curves over a common axis, named at their right end in a legend.
pub fn curve(curve: &Curve) -> String {
    let (width, height) = (460.0, 280.0);
    let (left, right, top, bottom) = (56.0, width - 14.0, 12.0, height - 44.0);
    let shown = |p: &&(f64, f64)| p.0.is_finite() && p.1.is_finite() && (!curve.logarithmic || p.1 > 0.0);
    let points = || curve.series.iter().flat_map(|s| &s.points).filter(shown);
    let (x_low, x_high) = super::overlay::range(points().map(|p| p.0));
    let (y_low, y_high) = super::overlay::range(points().map(|p| p.1));
    let x = Axis::linear(x_low, x_high, left, right);
    let y = if curve.logarithmic {
        Axis::logarithmic(y_low, y_high, bottom, top)
    } else {
        let pad = 0.04 * (y_high - y_low);
        Axis::linear(y_low - pad, y_high + pad, bottom, top)
    };
    let mut drawing = Drawing::new(width, height, &curve.title);
    frame(&mut drawing, &x, &y, (left, right, top, bottom), (&curve.x_label, &curve.y_label));
    for (value, label) in &curve.marks {
        drawing.line((x.at(*value), top), (x.at(*value), bottom), "mark");
        drawing.text((x.at(*value) + 4.0, top + 10.0), "start", "tick", label);
    }
    for (i, series) in curve.series.iter().enumerate() {
        let line: Vec<(f64, f64)> = series.points.iter().filter(shown).map(|p| (x.at(p.0), y.at(p.1))).collect();
        let class = format!("curve {}{}", group(i), if series.dashed { " dashed" } else { "" });
        match line.as_slice() {
            [] => {}
            [only] => drawing.point(*only, 3.5, &format!("point {}", group(i)), &series.name),
            _ => drawing.curve(&line, &class),
        }
    }
    drawing.finish()
}

/// The names of the groups with their colours, as a list beside a figure.
pub fn legend(names: impl Iterator<Item = (String, bool)>) -> String {
    let items: Vec<String> = names
        .enumerate()
        .map(|(i, (name, dashed))| {
            let class = if dashed { "key dashed" } else { "key" };
            format!("<li><span class=\"{class} {}\"></span>{}</li>", group(i), html::escape(&name))
        })
        .collect();
    format!("<ul class=\"legend\">{}</ul>", items.concat())
}

/// The scale of the tinted images with its two ends.
pub fn colour_bar(label: &str, (low, high): (f64, f64), digits: usize) -> String {
    let (width, height) = (300.0, 12.0);
    let mut drawing = Drawing::new(width, height, label);
    let steps = 60;
    for i in 0..steps {
        let colour = colour::hex(colour::scale((f64::from(i) + 0.5) / f64::from(steps)));
        let step = width / f64::from(steps);
        // Slightly too wide, so that no seam shows between neighbours.
        drawing.rectangle((f64::from(i) * step, 0.0), (step + 0.4, height), "bar", Some(&colour));
    }
    format!(
        "<p class=\"scale\"><span>{}</span><span class=\"low\">{}</span>{}<span>{}</span></p>",
        html::escape(label),
        html::fixed(Some(low), digits),
        drawing.finish(),
        html::fixed(Some(high), digits)
    )
}
