//! Parsers that do what no parser may, but only with bad input: they prove that the harness sees it. Never among the
//! rest.

use super::Target;

const GOOD: &[u8] = b"good input";

/// Each way to misbehave, and one that does not.
pub(crate) fn fakes() -> Vec<Target> {
    let fake = |name, misbehave: fn()| {
        Target::new(name, vec![GOOD.to_vec()], move |input| {
            if input != GOOD {
                misbehave();
            }
            true
        })
    };
    vec![
        fake("fake-well", || {}),
        fake("fake-panic", || panic!("a fake panic")),
        fake("fake-hang", || {
            loop {
                std::hint::spin_loop();
            }
        }),
        fake("fake-hoard", || {
            let mut hoard = Vec::new();
            loop {
                hoard.push(vec![1_u8; 1 << 20]);
            }
        }),
        fake("fake-claim", || {
            // What a parser does that believes a length: one piece, larger than any machine.
            drop(Vec::<u8>::with_capacity(1 << 45));
        }),
        Target::new("fake-blind", vec![GOOD.to_vec()], |_| false),
    ]
}
