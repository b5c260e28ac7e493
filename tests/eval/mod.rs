//! Statistics, scores of predictions, and the tables they come from and go to.

mod compare;
mod evaluation;
mod labels;
mod predictions;
mod statistics;
