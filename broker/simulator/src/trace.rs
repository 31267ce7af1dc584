//! What happened in a run, as a hash (two runs of a seed must agree) and, if asked for, as text.

use std::{cell::RefCell, fmt, rc::Rc};

/// Clones write to the same trace.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    inner: Rc<RefCell<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    hash: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    /// A trace that keeps its lines.
    #[must_use]
    pub fn keeping() -> Self {
        Self { inner: Rc::new(RefCell::new(Inner { hash: 0, lines: Some(Vec::new()) })) }
    }

    pub fn note(&self, line: fmt::Arguments<'_>) {
        let mut inner = self.inner.borrow_mut();
        let mut hasher = Hasher(inner.hash ^ 0xcbf2_9ce4_8422_2325);
        fmt::Write::write_fmt(&mut hasher, line).expect("hashing cannot fail");
        inner.hash = hasher.0;
        if let Some(lines) = &mut inner.lines {
            lines.push(line.to_string());
        }
    }

    /// FNV-1a of everything noted.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.inner.borrow().hash
    }

    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.inner.borrow().lines.clone().unwrap_or_default()
    }
}

struct Hasher(u64);

impl fmt::Write for Hasher {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Ok(())
    }
}
