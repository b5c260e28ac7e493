//! Drawings as inline SVG: marks, axes and round tick values. Colours and fonts come from the page's style sheet, so that
//! one drawing serves light, dark and paper.

use std::fmt::Write;

use super::html::escape;

/// An SVG drawing under construction, in units of its view box.
pub struct Drawing {
    width: f64,
    height: f64,
    title: String,
    body: String,
}

/// A coordinate with at most two decimals; what is not a number is drawn at the origin rather than break the file.
fn n(value: f64) -> String {
    let value = if value.is_finite() { value } else { 0.0 };
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

impl Drawing {
    /// `title` is what a screen reader says.
    pub fn new(width: f64, height: f64, title: &str) -> Drawing {
        Drawing { width, height, title: title.into(), body: String::new() }
    }

    // Writing into a String cannot fail.
    fn push(&mut self, element: std::fmt::Arguments) {
        let _ = self.body.write_fmt(element);
    }

    pub fn line(&mut self, (x0, y0): (f64, f64), (x1, y1): (f64, f64), class: &str) {
        let class = escape(class);
        self.push(format_args!(
            "<line class=\"{class}\" x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\"/>",
            n(x0),
            n(y0),
            n(x1),
            n(y1)
        ));
    }

    pub fn rectangle(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), class: &str, fill: Option<&str>) {
        let fill = fill.map(|f| format!(" fill=\"{}\"", escape(f))).unwrap_or_default();
        self.push(format_args!(
            "<rect class=\"{}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"{fill}/>",
            escape(class),
            n(x),
            n(y),
            n(width.max(0.0)),
            n(height.max(0.0))
        ));
    }

    /// A point with an explanation that appears under the pointer.
    pub fn point(&mut self, (x, y): (f64, f64), radius: f64, class: &str, hint: &str) {
        let hint = if hint.is_empty() { String::new() } else { format!("<title>{}</title>", escape(hint)) };
        let class = escape(class);
        self.push(format_args!(
            "<circle class=\"{class}\" cx=\"{}\" cy=\"{}\" r=\"{}\">{hint}</circle>",
            n(x),
            n(y),
            n(radius)
        ));
    }

    pub fn curve(&mut self, points: &[(f64, f64)], class: &str) {
        let list: Vec<String> = points.iter().map(|(x, y)| format!("{},{}", n(*x), n(*y))).collect();
        self.push(format_args!("<polyline class=\"{}\" points=\"{}\"/>", escape(class), list.join(" ")));
    }

    /// `anchor` is `start`, `middle` or `end`.
    pub fn text(&mut self, (x, y): (f64, f64), anchor: &str, class: &str, text: &str) {
        self.push(format_args!(
            "<text class=\"{}\" x=\"{}\" y=\"{}\" text-anchor=\"{anchor}\">{}</text>",
            escape(class),
            n(x),
            n(y),
            escape(text)
        ));
    }

    /// Text that runs upwards, for the vertical axis.
    pub fn upward_text(&mut self, (x, y): (f64, f64), class: &str, text: &str) {
        let (x, y) = (n(x), n(y));
        self.push(format_args!(
            "<text class=\"{}\" transform=\"translate({x} {y}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            escape(class),
            escape(text)
        ));
    }

    pub fn finish(self) -> String {
        format!(
            "<svg viewBox=\"0 0 {} {}\" role=\"img\"><title>{}</title>{}</svg>",
            n(self.width),
            n(self.height),
            escape(&self.title),
            self.body
        )
    }
}

/// One axis: how values become positions, and where its ticks are.
#[derive(Clone, Debug)]
pub struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
    from: f64,
    to: f64,
}

impl Axis {
    /// Values `low..=high` on positions `from..to`; a range of no extent is widened.
    pub fn linear(low: f64, high: f64, from: f64, to: f64) -> Axis {
        let (low, high) = if low.is_finite() && high.is_finite() { (low, high) } else { (0.0, 1.0) };
        let pad = if high > low { 0.0 } else { 0.5 * low.abs().max(1.0) };
        Axis { low: low - pad, high: high + pad, logarithmic: false, from, to }
    }

    /// The same on a logarithmic scale. Values must be positive; otherwise the axis is linear.
    pub fn logarithmic(low: f64, high: f64, from: f64, to: f64) -> Axis {
        if !(low > 0.0 && high.is_finite() && high >= low) {
            return Axis::linear(low, high, from, to);
        }
        let (low, high) = (low.log10(), high.log10());
        let pad = if high - low > 0.05 { 0.0 } else { 0.1 };
        Axis { low: low - pad, high: high + pad, logarithmic: true, from, to }
    }

    pub fn at(&self, value: f64) -> f64 {
        let value = if self.logarithmic { value.max(f64::MIN_POSITIVE).log10() } else { value };
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// Round values within the axis, about `count` of them, with their labels.
    pub fn ticks(&self, count: usize) -> Vec<(f64, String)> {
        if self.logarithmic && self.high - self.low >= 1.0 {
            let decades = self.high - self.low;
            let every = (decades / count.max(1) as f64).ceil().max(1.0) as i64;
            let (first, last) = (self.low.floor() as i64, self.high.ceil() as i64);
            // Short ranges need the values between the powers of ten as well.
            let digits: &[f64] = if decades < 2.5 { &[1.0, 2.0, 5.0] } else { &[1.0] };
            let exponents = (first..=last).filter(|e| e.rem_euclid(every) == 0);
            let values = exponents.flat_map(|e| digits.iter().map(move |d| (d * 10f64.powi(e as i32), e)));
            let within = |v: f64| (self.low - 1e-9..=self.high + 1e-9).contains(&v.log10());
            return values.filter(|(v, _)| within(*v)).map(|(v, e)| (v, label(v, 10f64.powi(e as i32)))).collect();
        }
        let (low, high) =
            if self.logarithmic { (10f64.powf(self.low), 10f64.powf(self.high)) } else { (self.low, self.high) };
        let rough = (high - low) / count.max(1) as f64;
        let magnitude = 10f64.powf(rough.log10().floor());
        let step =
            [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * magnitude).find(|s| *s >= rough * 0.999).unwrap_or(rough);
        if !(step.is_finite() && step > 0.0) {
            return vec![];
        }
        let first = (low / step).ceil();
        (0..64)
            .map(|i| (first + f64::from(i)) * step)
            .take_while(|v| *v <= high + 1e-9 * step)
            .map(|v| (if v == 0.0 { 0.0 } else { v }, label(v, step)))
            .collect()
    }
}

/// A number with as many decimals as its step needs.
fn label(value: f64, step: f64) -> String {
    let size = value.abs();
    if size >= 1e6 || (size > 0.0 && size < 1e-4) {
        return format!("{value:.0e}").replace('-', "\u{2212}");
    }
    let digits = (-step.abs().log10().floor()).clamp(0.0, 8.0) as usize;
    format!("{value:.digits$}").replace('-', "\u{2212}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<String> {
        axis.ticks(5).into_iter().map(|t| t.1).collect()
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(labels(&Axis::linear(0.0, 1.0, 0.0, 1.0)), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(labels(&Axis::linear(-3.0, 92.0, 0.0, 1.0)), ["0", "20", "40", "60", "80"]);
        assert_eq!(labels(&Axis::logarithmic(0.002, 30.0, 0.0, 1.0)), ["0.01", "0.1", "1", "10"]);
        assert_eq!(labels(&Axis::logarithmic(0.03, 0.9, 0.0, 1.0)), ["0.05", "0.1", "0.2", "0.5"]);
        assert_eq!(labels(&Axis::linear(2.0, 2.0, 0.0, 1.0)).len(), 5);
        assert!(labels(&Axis::linear(f64::NAN, 2.0, 0.0, 1.0)).len() > 2);
    }

    #[test]
    fn positions_run_from_end_to_end() {
        let axis = Axis::linear(10.0, 20.0, 100.0, 0.0);
        assert_eq!((axis.at(10.0), axis.at(20.0), axis.at(15.0)), (100.0, 0.0, 50.0));
        let axis = Axis::logarithmic(1.0, 100.0, 0.0, 10.0);
        assert!((axis.at(10.0) - 5.0).abs() < 1e-12);
    }
}
