//! Parameters of selectors on the command line: each selector brings its flags ([`SelectorSpec::flags`]).

use clap::{Arg, ArgAction, ArgMatches, Command, error::ErrorKind};
use serde_json::{Value, json};

use crate::{
    error::Error,
    select::{
        SELECTORS, Selectors,
        selector::{Flag, Parameters, SelectorSpec},
    },
};

/// Every selector with the parameters that were given.
pub struct SelectorFlags(pub Selectors);

impl SelectorFlags {
    /// The flags of all selectors; one that several share once.
    fn all() -> impl Iterator<Item = &'static Flag> {
        let flags = || SELECTORS.iter().flat_map(|spec| spec.flags);
        flags().enumerate().filter(move |(i, flag)| flags().take(*i).all(|other| other.long != flag.long)).map(|f| f.1)
    }

    fn read(matches: &ArgMatches) -> Result<SelectorFlags, Error> {
        let mut selectors = Selectors::default();
        for selector in Selectors::default().all() {
            let spec: &SelectorSpec = selector.spec();
            let (mut given, defaults) = (Parameters::new(), selector.parameters());
            for flag in spec.flags {
                let value = match flag.value_name {
                    None => matches.get_flag(flag.long).then_some(Value::Bool(true)),
                    Some(_) => match matches.get_one::<String>(flag.long) {
                        Some(text) => Some(value(flag, text, defaults.get(flag.key))?),
                        None => None,
                    },
                };
                given.extend(value.map(|value| (flag.key.to_string(), value)));
            }
            if !given.is_empty() {
                selectors.set(spec.name, given)?;
            }
        }
        Ok(SelectorFlags(selectors))
    }
}

/// What a flag's text means, of the kind that the parameter has by default.
fn value(flag: &Flag, text: &str, default: Option<&Value>) -> Result<Value, Error> {
    let number = match default {
        Some(Value::Number(number)) if number.is_f64() => text.parse::<f64>().ok().map(|v| json!(v)),
        Some(Value::Number(_)) => text.parse::<u64>().ok().map(|v| json!(v)),
        _ => return Ok(Value::String(text.to_string())),
    };
    let number = number.filter(Value::is_number);
    number.ok_or_else(|| Error::Usage(format!("--{} is a number, not {text:?}", flag.long)))
}

impl clap::Args for SelectorFlags {
    fn augment_args(command: Command) -> Command {
        SelectorFlags::all().fold(command, |command, flag| {
            let arg = Arg::new(flag.long).long(flag.long).help(flag.help);
            command.arg(match flag.value_name {
                Some(value_name) => arg.value_name(value_name).allow_negative_numbers(true),
                None => arg.action(ArgAction::SetTrue),
            })
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        SelectorFlags::augment_args(command)
    }
}

impl clap::FromArgMatches for SelectorFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<SelectorFlags, clap::Error> {
        SelectorFlags::read(matches).map_err(|error| clap::Error::raw(ErrorKind::ValueValidation, format!("{error}\n")))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = SelectorFlags::from_arg_matches(matches)?;
        Ok(())
    }
}
