//! All patterns in one automaton, which is built as far as keys need it.
//!
//! A pattern is a row of tokens; a *place* is a token that is to be matched next. Reading a key word by word leads from one set of
//! places to the next, and such a set is a *state*. States and the steps between them are made when a key first needs them and
//! then found in a table, so that a word costs two look-ups, whatever the number of patterns. It is one loop without recursion:
//! the sandbox checks the clock at each call and each turn of a loop, and an earlier trie, walked recursively, paid 60 % for it.
//!
//! Keys come from outside and can be made to need ever new states: what is remembered is bounded, and forgotten when it is full.

use std::collections::BTreeMap;

/// Patterns, each with a target.
#[derive(Debug)]
pub struct Matcher<T> {
    words: Words,
    tokens: Vec<Token>,
    /// Where each pattern begins in `tokens`, and its target.
    patterns: Vec<(u32, T)>,
    states: Vec<State<T>>,
    by_places: BTreeMap<Vec<u32>, u32>,
    /// In all states together.
    places: usize,
    steps: Steps,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Word(u32),
    /// `*`
    One,
    /// `#`
    Any,
    /// The end of the pattern, and its number.
    End(u32),
}

#[derive(Debug)]
struct State<T> {
    /// Sorted, each once.
    places: Vec<u32>,
    /// The targets of the patterns that match when the key ends here, each once, in the order of the patterns.
    targets: Vec<T>,
}

/// Steps remembered at most. Each takes 16 bytes and comes with at most one state.
const STEPS_MAX: usize = 1 << 14;
/// Places in all states together at most, for many long patterns.
const PLACES_MAX: usize = 1 << 19;

const START: u32 = 0;

impl<T: Copy + PartialEq> Matcher<T> {
    /// # Errors
    /// A pattern that cannot be meant: one that has more than 255 bytes, as in AMQP.
    pub fn new<'a>(bindings: impl IntoIterator<Item = (&'a str, T)>) -> Result<Self, String> {
        let mut matcher = Self {
            words: Words::default(),
            tokens: Vec::new(),
            patterns: Vec::new(),
            states: Vec::new(),
            by_places: BTreeMap::new(),
            places: 0,
            steps: Steps::new(),
        };
        for (pattern, target) in bindings {
            if pattern.len() > 255 {
                return Err(format!("the pattern '{pattern}' is longer than 255 bytes"));
            }
            let number = matcher.patterns.len() as u32;
            matcher.patterns.push((matcher.tokens.len() as u32, target));
            if !pattern.is_empty() {
                for word in pattern.split('.') {
                    let token = match word {
                        "*" => Token::One,
                        "#" => Token::Any,
                        word => Token::Word(matcher.words.number_of(word.as_bytes())),
                    };
                    // `#.#` is `#`; fewer places, the same meaning.
                    if token != Token::Any || matcher.tokens.last() != Some(&Token::Any) {
                        matcher.tokens.push(token);
                    }
                }
            }
            matcher.tokens.push(Token::End(number));
        }
        matcher.forget();
        Ok(matcher)
    }

    /// The targets of the patterns that match a routing key, each once, in the order of the bindings.
    pub fn matches(&mut self, key: &[u8]) -> &[T] {
        let mut state = START;
        // No key, no word; but `a.` is two words, the second of them empty.
        if !key.is_empty() {
            let mut start = 0;
            let mut hash = HASH_START;
            for (at, byte) in key.iter().enumerate() {
                if *byte == b'.' {
                    state = self.step(state, hash, &key[start..at]);
                    start = at + 1;
                    hash = HASH_START;
                } else {
                    hash = (hash ^ u32::from(*byte)).wrapping_mul(HASH_FACTOR);
                }
            }
            state = self.step(state, hash, &key[start..]);
        }
        &self.states[state as usize].targets
    }

    #[inline]
    fn step(&mut self, state: u32, hash: u32, word: &[u8]) -> u32 {
        let word = self.words.find(hash, word);
        match self.steps.find(state, word) {
            Some(next) => next,
            None => self.new_step(state, word),
        }
    }

    #[cold]
    fn new_step(&mut self, mut state: u32, word: u32) -> u32 {
        if self.steps.count >= STEPS_MAX || self.places >= PLACES_MAX {
            let here = std::mem::take(&mut self.states[state as usize].places);
            self.forget();
            state = self.state(here);
        }
        let mut next = Vec::new();
        for place in &self.states[state as usize].places {
            match self.tokens[*place as usize] {
                Token::Word(wanted) if wanted == word => next.push(place + 1),
                Token::One => next.push(place + 1),
                Token::Any => next.push(*place),
                Token::Word(_) | Token::End(_) => {}
            }
        }
        let next = self.state(next);
        self.steps.insert(state, word, next);
        next
    }

    /// The state of these places and of those that `#`, standing for nothing, leads to.
    fn state(&mut self, mut places: Vec<u32>) -> u32 {
        let mut index = 0;
        while let Some(place) = places.get(index) {
            if self.tokens[*place as usize] == Token::Any {
                places.push(place + 1);
            }
            index += 1;
        }
        places.sort_unstable();
        places.dedup();
        if let Some(known) = self.by_places.get(&places) {
            return *known;
        }
        let mut targets: Vec<T> = Vec::new();
        for place in &places {
            if let Token::End(pattern) = self.tokens[*place as usize] {
                let target = self.patterns[pattern as usize].1;
                if !targets.contains(&target) {
                    targets.push(target);
                }
            }
        }
        let number = self.states.len() as u32;
        self.places += places.len();
        self.by_places.insert(places.clone(), number);
        self.states.push(State { places, targets });
        number
    }

    fn forget(&mut self) {
        self.states.clear();
        self.by_places.clear();
        self.places = 0;
        self.steps = Steps::new();
        let start = self.state(self.patterns.iter().map(|(start, _)| *start).collect());
        assert_eq!(start, START, "the first state is the one that keys begin in");
    }

    /// States that are remembered; for tests of the bound.
    #[cfg(test)]
    fn remembered(&self) -> usize {
        self.states.len()
    }
}

/// FNV-1a.
const HASH_START: u32 = 0x811c_9dc5;
const HASH_FACTOR: u32 = 0x0100_0193;

/// A word that no pattern has.
const UNKNOWN: u32 = 0;

/// The words of the patterns by number, from 1: a table with open addressing, at most half full.
#[derive(Debug, Default)]
struct Words {
    /// Hash and number; number 0 is a free place.
    table: Vec<(u32, u32)>,
    /// Word i has number i + 1.
    words: Vec<Box<[u8]>>,
}

impl Words {
    fn number_of(&mut self, word: &[u8]) -> u32 {
        let hash = word.iter().fold(HASH_START, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(HASH_FACTOR));
        let known = self.find(hash, word);
        if known != UNKNOWN {
            return known;
        }
        self.words.push(word.into());
        let number = self.words.len() as u32;
        if self.words.len() * 2 > self.table.len() {
            let mut table = vec![(0, UNKNOWN); (self.words.len() * 4).next_power_of_two()];
            for (hash, number) in self.table.iter().filter(|(_, number)| *number != UNKNOWN) {
                place(&mut table, *hash, *number);
            }
            self.table = table;
        }
        place(&mut self.table, hash, number);
        return number;

        fn place(table: &mut [(u32, u32)], hash: u32, number: u32) {
            let mask = table.len() - 1;
            let mut at = mixed(hash) as usize & mask;
            while table[at].1 != UNKNOWN {
                at = (at + 1) & mask;
            }
            table[at] = (hash, number);
        }
    }

    #[inline]
    fn find(&self, hash: u32, word: &[u8]) -> u32 {
        let Some(mask) = self.table.len().checked_sub(1) else { return UNKNOWN };
        let mut at = mixed(hash) as usize & mask;
        loop {
            let (known, number) = self.table[at];
            if number == UNKNOWN || (known == hash && *self.words[number as usize - 1] == *word) {
                return number;
            }
            at = (at + 1) & mask;
        }
    }
}

/// Spreads the high bits into the low ones, which choose the place in a table.
#[inline]
fn mixed(hash: u32) -> u32 {
    hash ^ (hash >> 15)
}

/// The steps between states: a table with open addressing that grows to twice [`STEPS_MAX`] places.
#[derive(Debug)]
struct Steps {
    /// State, word and next state; next state `FREE` is a free place.
    table: Vec<(u32, u32, u32)>,
    count: usize,
}

const FREE: u32 = u32::MAX;

impl Steps {
    fn new() -> Self {
        Self { table: vec![(0, 0, FREE); 64], count: 0 }
    }

    #[inline]
    fn start(&self, state: u32, word: u32) -> usize {
        let hash = (state.wrapping_mul(0x9e37_79b1) ^ word.wrapping_mul(0x85eb_ca77)).wrapping_mul(0xc2b2_ae3d);
        mixed(hash) as usize & (self.table.len() - 1)
    }

    #[inline]
    fn find(&self, state: u32, word: u32) -> Option<u32> {
        let mask = self.table.len() - 1;
        let mut at = self.start(state, word);
        loop {
            let (of, by, next) = self.table[at];
            if next == FREE {
                return None;
            }
            if of == state && by == word {
                return Some(next);
            }
            at = (at + 1) & mask;
        }
    }

    fn insert(&mut self, state: u32, word: u32, next: u32) {
        if self.count * 2 >= self.table.len() {
            let larger = vec![(0, 0, FREE); self.table.len() * 2];
            for (state, word, next) in std::mem::replace(&mut self.table, larger) {
                if next != FREE {
                    self.place(state, word, next);
                }
            }
        }
        self.place(state, word, next);
        self.count += 1;
    }

    fn place(&mut self, state: u32, word: u32, next: u32) {
        let mask = self.table.len() - 1;
        let mut at = self.start(state, word);
        while self.table[at].2 != FREE {
            at = (at + 1) & mask;
        }
        self.table[at] = (state, word, next);
    }
}

#[cfg(test)]
mod tests;
