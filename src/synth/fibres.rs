//! Grids over a slide, the direction in which stroma runs, and fibre texture along it by line integral convolution
//! (Cabral and Leedom, "Imaging vector fields using line integral convolution", SIGGRAPH 1993).

use super::{
    anatomy::Gland,
    random::{Noise, Stream},
};

/// Values on a square lattice of points `cell_um` apart, the first at half a cell from the corner.
#[derive(Clone, Debug)]
pub struct Grid<T> {
    pub side: usize,
    pub cell_um: f32,
    pub values: Vec<T>,
}

impl<T: Copy> Grid<T> {
    pub fn build(side: usize, cell_um: f32, mut value: impl FnMut(f32, f32) -> T) -> Grid<T> {
        let centre = |i: usize| (i as f32 + 0.5) * cell_um;
        let values = (0..side * side).map(|i| value(centre(i % side), centre(i / side))).collect();
        Grid { side, cell_um, values }
    }

    /// The value of the cell that holds a point; points outside take the nearest cell.
    pub fn nearest(&self, x_um: f32, y_um: f32) -> T {
        self.values[self.index(x_um, y_um)]
    }

    pub fn index(&self, x_um: f32, y_um: f32) -> usize {
        let cell = |v: f32| ((v / self.cell_um) as isize).clamp(0, self.side as isize - 1) as usize;
        cell(y_um) * self.side + cell(x_um)
    }

    /// Index and centre of every cell in the box of `reach_um` around a point.
    pub fn around(&self, x_um: f32, y_um: f32, reach_um: f32) -> impl Iterator<Item = (usize, f32, f32)> + use<T> {
        let (side, cell_um) = (self.side, self.cell_um);
        let low = |v: f32| (((v - reach_um) / cell_um).floor().max(0.0) as usize).min(side);
        let high = |v: f32| (((v + reach_um) / cell_um).ceil().max(0.0) as usize).min(side);
        let (columns, rows) = (low(x_um)..high(x_um), low(y_um)..high(y_um));
        let centre = move |i: usize| (i as f32 + 0.5) * cell_um;
        rows.flat_map(move |row| columns.clone().map(move |column| (row * side + column, centre(column), centre(row))))
    }
}

impl Grid<f32> {
    /// Bilinear between the four nearest points.
    pub fn smooth(&self, x_um: f32, y_um: f32) -> f32 {
        let last = self.side as f32 - 1.0;
        let (u, v) = ((x_um / self.cell_um - 0.5).clamp(0.0, last), (y_um / self.cell_um - 0.5).clamp(0.0, last));
        let (x0, y0) = (u as usize, v as usize);
        let (x1, y1) = ((x0 + 1).min(self.side - 1), (y0 + 1).min(self.side - 1));
        let (tx, ty) = (u - x0 as f32, v - y0 as f32);
        let row = |y: usize| self.values[y * self.side + x0] * (1.0 - tx) + self.values[y * self.side + x1] * tx;
        row(y0) * (1.0 - ty) + row(y1) * ty
    }
}

/// Unit vectors along the fibres. Fibres wander slowly, are crimped, and wrap around glands.
pub type Flow = Grid<(f32, f32)>;

pub fn flow(side: usize, cell_um: f32, glands: &[Gland], stream: &mut Stream) -> Flow {
    let (wander, crimp) = (Noise::new(stream), Noise::new(stream));
    let start = stream.uniform(0.0, std::f64::consts::PI) as f32;
    // Directions have no sign, so they are averaged as doubled angles.
    let mut doubled = Grid::build(side, cell_um, |x, y| {
        let angle = start
            + 2.2 * wander.fractal(x / 190.0, y / 190.0, 2)
            + 0.45 * (0.28 * (x * start.cos() + y * start.sin()) + 6.0 * crimp.at(x / 45.0, y / 45.0)).sin();
        ((2.0 * angle).cos(), (2.0 * angle).sin())
    });
    for gland in glands {
        for (index, x, y) in doubled.around(gland.x_um, gland.y_um, gland.reach_um + 45.0) {
            let (dx, dy) = (x - gland.x_um, y - gland.y_um);
            let angle = dy.atan2(dx);
            let outside_um = dx.hypot(dy) - gland.outer(angle);
            let weight = 3.0 * (-outside_um.max(0.0) / 14.0).exp();
            let value = &mut doubled.values[index];
            // Tangential: the radial direction turned by a quarter, doubled by a half.
            value.0 -= weight * (2.0 * angle).cos();
            value.1 -= weight * (2.0 * angle).sin();
        }
    }
    let values = doubled.values.iter().map(|&(c, s)| (0.5 * s.atan2(c)).sin_cos()).map(|(s, c)| (c, s)).collect();
    Grid { side, cell_um, values }
}

/// Texture of streaks along `flow`: white noise averaged over `2 * steps + 1` samples, scaled to unit variance.
pub fn streaks(flow: &Flow, side: usize, cell_um: f32, steps: usize, stream: &mut Stream) -> Grid<f32> {
    let noise = Grid::build(side, cell_um, |_, _| (stream.bits() >> 40) as f32 / (1u64 << 24) as f32 - 0.5);
    let gain = (12.0 * (2.0 * steps as f32 + 1.0)).sqrt();
    Grid::build(side, cell_um, |x, y| {
        let start = flow.nearest(x, y);
        let mut sum = noise.nearest(x, y);
        for sign in [1.0, -1.0] {
            let (mut px, mut py) = (x, y);
            let mut heading = (start.0 * sign, start.1 * sign);
            for _ in 0..steps {
                px += heading.0 * cell_um;
                py += heading.1 * cell_um;
                let local = flow.nearest(px, py);
                let along = if local.0 * heading.0 + local.1 * heading.1 < 0.0 { -1.0 } else { 1.0 };
                heading = (local.0 * along, local.1 * along);
                sum += noise.nearest(px, py);
            }
        }
        sum / (2.0 * steps as f32 + 1.0) * gain
    })
}
