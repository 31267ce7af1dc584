//! The table of settings as a whole: finding one in it, and the file in which all of them are explained.

use super::{Config, Kind, SETTINGS, Setting, TopicRule};

/// The setting of that name.
pub(super) fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

/// The setting that was probably meant.
pub(super) fn suggest(name: &str) -> Option<&'static str> {
    // Kafka users write data.dir and log.dirs, others data_dir.
    let normal = |name: &str| name.replace(['-', '_'], ".").to_lowercase();
    let meant = normal(name);
    SETTINGS
        .iter()
        .map(|setting| (strsim::jaro_winkler(&meant, &normal(setting.name)), setting.name))
        .filter(|(likeness, _)| *likeness > 0.88)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, name)| name)
}

/// A TOML file in which everything is explained and commented out.
pub(super) fn document(defaults: &Config) -> String {
    use std::fmt::Write as _;
    let mut text = String::from(
        "# Tidegate's configuration. Every setting is shown with its default; remove the # in front of what you change.\n\
         # Flags of the command line win over this file. Check it with: tidegate config check FILE\n",
    );
    let mut section = "";
    for setting in SETTINGS {
        if setting.section != section {
            section = setting.section;
            let _ = write!(text, "\n## {section}\n");
        }
        text.push('\n');
        for line in wrap(setting.help, 116) {
            let _ = writeln!(text, "# {line}");
        }
        let mut facts = vec![setting.expected()];
        if !setting.unit.is_empty() {
            facts.push(setting.unit.to_owned());
        }
        if setting.is_kafka {
            facts.push("Kafka's name".to_owned());
        }
        let _ = writeln!(text, "# ({})", facts.join("; "));
        let quoted = matches!(
            setting.kind,
            Kind::Text { .. }
                | Kind::LogFilter { .. }
                | Kind::Path { .. }
                | Kind::Address { .. }
                | Kind::Choice { .. }
                | Kind::Topic { rule: TopicRule::OneOf(_) | TopicRule::ListOf(_), .. }
        );
        let value = setting.get(defaults).unwrap_or_default();
        // TOML takes a.b = 1 and a.b.c = 2 for a contradiction, but for the quotes.
        let is_below =
            |other: &Setting| setting.name.strip_prefix(other.name).is_some_and(|rest| rest.starts_with('.'));
        let name = if SETTINGS.iter().any(is_below) { format!("{:?}", setting.name) } else { setting.name.to_owned() };
        let _ = if quoted { writeln!(text, "#{name} = {value:?}") } else { writeln!(text, "#{name} = {value}") };
    }
    text
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is one from the start");
        if !line.is_empty() && line.len() + 1 + word.len() > width {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}
