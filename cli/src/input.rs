//! What people are asked for: passwords, which are never arguments (other users see those), and confirmations.

use std::io::{Read, Write};
use std::path::Path;

use coffer_runtime::exit::Exit;
use coffer_runtime::secret_file;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::{Error, Terminal};

/// Longest line that is read.
const MOST: usize = 64 * 1024;

/// Where a password comes from.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct PasswordArgs {
    /// Read the password from this file (its only line); '-' means standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<String>,
}

impl PasswordArgs {
    /// The password: from the file, else from the variable, else asked for. `twice`: a new one, so that it is asked for
    /// two times.
    pub(crate) fn read(
        &self,
        terminal: &mut Terminal,
        variable: &str,
        of_what: &str,
        twice: bool,
    ) -> Result<SecretString, Error> {
        match self.password_file.as_deref() {
            Some("-") => return read_line(terminal).map(SecretString::from),
            Some(path) => return secret_file::read(Path::new(path)).map_err(Error::Secret),
            None => {}
        }
        if let Some(secret) = std::env::var(variable).ok().filter(|secret| !secret.is_empty()) {
            return Ok(secret.into());
        }
        if !terminal.asks {
            return Err(Error::usage(
                format!("no password of {of_what}"),
                Some(&format!(
                    "give it with --password-file FILE, in {variable}, or run this on a terminal to be asked"
                )),
            ));
        }
        let first = ask_hidden(terminal, &format!("Password of {of_what}: "))?;
        if twice && ask_hidden(terminal, "Again: ")?.expose_secret() != first.expose_secret() {
            return Err(Error::usage("the two passwords differ", None));
        }
        if first.expose_secret().is_empty() {
            return Err(Error::usage("the password is empty", None));
        }
        Ok(first)
    }
}

/// Asks a question that only `y` or `yes` answers positively. Without a person there is no answer, hence no.
pub(crate) fn confirm(terminal: &mut Terminal, question: &str) -> Result<bool, Error> {
    if !terminal.asks {
        return Ok(false);
    }
    prompt(terminal, &format!("{question} [y/N] "))?;
    let answer = read_line(terminal)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

fn prompt(terminal: &mut Terminal, text: &str) -> Result<(), Error> {
    let written = write!(terminal.err, "{text}").and_then(|()| terminal.err.flush());
    written.map_err(|source| Error::System { action: "ask".to_owned(), source })
}

/// Reads byte by byte: what comes after the line belongs to whoever reads next.
fn read_line(terminal: &mut Terminal) -> Result<String, Error> {
    let failed = |source| Error::System { action: "read the standard input".to_owned(), source };
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < MOST && terminal.input.read(&mut byte).map_err(failed)? == 1 && byte != *b"\n" {
        line.extend(byte);
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    String::from_utf8(line).map_err(|_| Error::usage("the standard input is not UTF-8", None))
}

/// Gives the terminal back as it was, whatever happens.
struct Raw(Termios);

impl Raw {
    /// Turns off the echo, and with it what the terminal does about keys: Ctrl-C would end us with the echo still off.
    fn new() -> std::io::Result<Self> {
        let before = tcgetattr(std::io::stdin())?;
        let mut raw = before.clone();
        raw.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0) {
            tracing::warn!(%error, "cannot turn the terminal's echo on again; type `stty sane`");
        }
    }
}

fn ask_hidden(terminal: &mut Terminal, text: &str) -> Result<SecretString, Error> {
    // First, so that what is typed or pasted as soon as the question is seen is neither shown nor lost.
    let raw = Raw::new().map_err(|source| Error::System { action: "hide the password".to_owned(), source })?;
    prompt(terminal, text)?;
    let line = read_keys(&mut terminal.input);
    drop(raw);
    terminal.note("")?;
    line
}

/// Reads a line key by key, with the few keys that people use while they type a password.
fn read_keys(input: &mut dyn Read) -> Result<SecretString, Error> {
    const INTERRUPT: u8 = 3;
    const END: u8 = 4;
    const BACKSPACE: u8 = 8;
    const KILL_LINE: u8 = 21;
    const DELETE: u8 = 127;
    let mut line = Zeroizing::new(Vec::new());
    let mut key = [0];
    while line.len() < MOST {
        let read = input.read(&mut key);
        let read = read.map_err(|source| Error::System { action: "read the password".to_owned(), source })?;
        match key {
            _ if read == 0 => break,
            [b'\n' | b'\r' | END] => break,
            [INTERRUPT] => return Err(Error::Ended(Exit::Interrupted)),
            [KILL_LINE] => line.clear(),
            // A character may have several bytes; all but its first look like 10xxxxxx.
            [BACKSPACE | DELETE] => while line.pop().is_some_and(|byte| byte & 0xC0 == 0x80) {},
            [byte] => line.push(byte),
        }
    }
    let text = std::str::from_utf8(&line).map_err(|_| Error::usage("the password is not UTF-8", None))?;
    Ok(SecretString::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(input: &'static str, arguments: &PasswordArgs) -> Result<String, Error> {
        let mut terminal = Terminal::buffered(std::io::sink(), std::io::sink(), input.as_bytes());
        let secret = arguments.read(&mut terminal, "COFFER_TEST_NO_SUCH_VARIABLE", "pool lab", false)?;
        Ok(secret.expose_secret().to_owned())
    }

    #[test]
    fn a_password_comes_from_a_file_or_the_standard_input_and_nowhere_without_a_person() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        std::fs::write(&path, "correct horse\n").unwrap();
        let from = |path: &str| PasswordArgs { password_file: Some(path.to_owned()) };
        assert_eq!(read("", &from(path.to_str().unwrap())).unwrap(), "correct horse");
        assert_eq!(read("battery staple\r\nnext", &from("-")).unwrap(), "battery staple");
        let error = read("typed", &PasswordArgs::default()).unwrap_err().report();
        assert!(error.advice.unwrap().contains("--password-file FILE, in COFFER_TEST_NO_SUCH_VARIABLE"));
    }

    #[test]
    fn a_password_is_typed_with_the_usual_keys() {
        let typed = |mut keys: &[u8]| read_keys(&mut keys).map(|secret| secret.expose_secret().to_owned());
        assert_eq!(typed(b"horse\rrest").unwrap(), "horse");
        assert_eq!(typed("hä\u{7f}orsX\u{8}e\n".as_bytes()).unwrap(), "horse");
        assert_eq!(typed(b"wrong\x15horse\n").unwrap(), "horse");
        assert_eq!(typed(b"\x7f\x7fhorse").unwrap(), "horse");
        assert_eq!(typed(b"ho\x03rse\n").unwrap_err().report().exit, Exit::Interrupted);
        assert!(typed(b"\xff\n").is_err());
    }

    #[test]
    fn nobody_confirms_where_there_is_no_person() {
        let check = |input: &'static str, asks| {
            let mut terminal =
                Terminal { asks, ..Terminal::buffered(std::io::sink(), std::io::sink(), input.as_bytes()) };
            confirm(&mut terminal, "Delete?").unwrap()
        };
        assert!(check("y\n", true) && check("YES\n", true));
        assert!(!check("n\n", true) && !check("\n", true) && !check("", true) && !check("y\n", false));
    }
}
