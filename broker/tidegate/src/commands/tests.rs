//! The command line as its users see it: every help text, and what is refused.

use clap::{CommandFactory as _, Parser as _};

use super::*;

fn help(path: &[&str]) -> String {
    let arguments = std::iter::once("tidegate").chain(path.iter().copied()).chain(["--help"]);
    // The width of the terminal that runs the tests does not matter.
    let command = Cli::command().term_width(100);
    command.try_get_matches_from(arguments).expect_err("--help is answered with its text").to_string()
}

/// Every command and subcommand.
fn paths(command: &clap::Command, before: &[String], found: &mut Vec<Vec<String>>) {
    found.push(before.to_vec());
    for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
        let path: Vec<String> = before.iter().cloned().chain([inner.get_name().to_owned()]).collect();
        paths(inner, &path, found);
    }
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn help_texts() {
    let mut found = Vec::new();
    paths(&Cli::command(), &[], &mut found);
    for path in found {
        let words: Vec<&str> = path.iter().map(String::as_str).collect();
        let name = if words.is_empty() { "tidegate".to_owned() } else { words.join("_") };
        assert!(help(&words).contains("\nExamples:\n"), "{name} has no examples");
        insta::assert_snapshot!(format!("help_{name}"), help(&words));
    }
}

#[test]
fn texts_may_begin_with_a_hyphen() {
    for line in [
        "tidegate produce a -K ->",
        "tidegate produce a --key - -H -a=1",
        "tidegate consume a -K ->",
        "tidegate consume a --format -%v",
        "tidegate plugin try --topic a --key -1 --value -x --header -a=-1",
    ] {
        Cli::try_parse_from(line.split(' ')).expect(line);
    }
}

#[test]
fn what_cannot_be_meant_is_refused_with_exit_code_2() {
    let check = |line: &str, expected: &str| {
        let error = Cli::try_parse_from(line.split(' ')).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
        let text = error.to_string();
        assert!(text.contains(expected), "{line}: {text}");
    };
    check("tidegate topic create", "required");
    check("tidegate topic create a --partitions 0", "0 is not in");
    check("tidegate topic create a --config retention", "write NAME=VALUE");
    check("tidegate topic create a --config =1", "has no name");
    check("tidegate produce a --acks 2", "invalid value '2'");
    check("tidegate produce a --key-separator \\q", "no escape");
    check("tidegate produce a --key k --key-separator :", "cannot be used with");
    check("tidegate consume a --offset newest", "is no offset");
    check("tidegate consume a --json --format text", "cannot be used with");
    check("tidegate consume a --partition 0 --group g", "cannot be used with");
    check("tidegate group reset-offsets g --topic a", "required");
    check("tidegate group reset-offsets g --topic a --to-earliest --to-latest", "cannot be used with");
    check("tidegate group reset-offsets g --to-earliest", "required");
    check("tidegate group reset-offsets g --topic a: --to-earliest", "is not TOPIC");
}
