//! Routes by regular expressions. All of them are one automaton: a key is read once, however many patterns there are.
//!
//! The automaton is a lazy DFA: its states are made when a key first needs them, and forgotten when they take more than
//! `CACHE_BYTES_MAX`. No pattern makes it slow: time is linear in the key. What a DFA cannot do (groups, backreferences, looking
//! around) is refused when the plugin is attached.

use regex_automata::{
    Input, MatchKind, PatternSet,
    hybrid::dfa::{Cache, DFA},
    util::syntax,
};
use tidegate_sdk::{
    Batch, Error, Failure, Router, Routes, Setup, Topic,
    config::{Reader, Source, Unmatched, Unrouted, shown},
};

/// What the states that were made may take; a plugin has 16 MiB in all.
const CACHE_BYTES_MAX: usize = 4 << 20;

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What the patterns are tried on.
    #[serde(default)]
    source: Source,
    bindings: Vec<Binding>,
    #[serde(default)]
    unmatched: Unmatched,
}

/// Records in which the pattern matches somewhere go to the topic.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Binding {
    pattern: String,
    topic: String,
}

#[derive(Debug)]
pub struct RegexRouter {
    source: Reader,
    automaton: DFA,
    cache: Cache,
    matched: PatternSet,
    /// The topic of each pattern.
    topics: Vec<Topic>,
    unmatched: Unrouted,
}

impl Router for RegexRouter {
    type Config = Config;
    const EXAMPLE: &str = r#"{ "source": { "key": true }, "bindings": [ { "pattern": "^(eu|uk)-[0-9]+$", "topic": "orders-europe" } ], "unmatched": "keep" }"#;

    fn open(config: Config, setup: &mut Setup) -> Result<Self, Error> {
        if config.bindings.is_empty() {
            return Err("`bindings` is empty: nothing would be routed".into());
        }
        let source = config.source.open(setup)?;
        let patterns: Vec<&str> = config.bindings.iter().map(|binding| binding.pattern.as_str()).collect();
        let automaton = compile(&patterns).map_err(|error| culprit(&patterns).unwrap_or(error))?;
        let (cache, matched) = (automaton.create_cache(), PatternSet::new(patterns.len()));
        let topics = config.bindings.iter().map(|binding| setup.topic(&binding.topic)).collect::<Result<_, _>>()?;
        Ok(Self { source, automaton, cache, matched, topics, unmatched: config.unmatched.open(setup)? })
    }

    fn route(&mut self, batch: &Batch, routes: &mut Routes) -> Result<(), Failure> {
        let Self { source, automaton, cache, matched, topics, unmatched } = self;
        source.for_each(batch, |text| {
            let text = text.unwrap_or_default();
            matched.clear();
            automaton
                .try_which_overlapping_matches(cache, &Input::new(text), matched)
                .expect("the automaton never gives up, and no byte makes it stop");
            for pattern in matched.iter() {
                routes.add_once(topics[pattern.as_usize()]);
            }
            unmatched.done(routes, || format!("no pattern matches '{}'", shown(text)));
        });
        Ok(())
    }
}

fn compile(patterns: &[&str]) -> Result<DFA, String> {
    let config = DFA::config()
        // All patterns that match are wanted, not the first.
        .match_kind(MatchKind::All)
        .cache_capacity(CACHE_BYTES_MAX)
        .skip_cache_capacity_check(false);
    let mut builder = DFA::builder();
    // Keys are bytes; without tables of Unicode the component is a quarter of the size.
    builder.configure(config).syntax(syntax::Config::new().unicode(false).utf8(false));
    builder.thompson(regex_automata::nfa::thompson::Config::new().utf8(false).nfa_size_limit(Some(4 << 20)));
    builder.build_many(patterns).map_err(|error| full_text(&error))
}

/// The first pattern that alone cannot be used, and why.
fn culprit(patterns: &[&str]) -> Option<String> {
    let bad = |pattern: &&str| compile(&[pattern]).err().map(|error| format!("the pattern '{pattern}': {error}"));
    patterns.iter().find_map(bad)
}

fn full_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = cause.to_string();
        source = cause.source();
    }
    text
}

tidegate_sdk::export!(router: RegexRouter);

#[cfg(test)]
mod tests;
