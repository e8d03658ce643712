//! Ends the process when a parser does not come back.

use std::time::Duration;

use crate::trial;

/// How often it looks.
const LOOK: Duration = Duration::from_millis(50);

/// Watches from now on: no trial may take longer than this.
pub(crate) fn start(patience: Duration) {
    std::thread::spawn(move || {
        loop {
            // Nobody wakes it: it looks by itself, as what hangs tells nobody.
            std::thread::park_timeout(LOOK);
            if trial::elapsed().is_some_and(|elapsed| elapsed > patience) {
                trial::fail("hangs");
            }
        }
    });
}
