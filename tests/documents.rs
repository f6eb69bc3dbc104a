//! The documents agree with the program: links resolve, and reference tables have exactly the settings,
//! problems and commands that exist. Metrics and alerts are checked where a server runs.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).expect(path)
}

/// Every Markdown document of the repository.
fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = ["", "docs", "crates"].map(|folder| root().join(folder)).to_vec();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && folder != root() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    assert!(found.len() > 30, "{}", found.len());
    found
}

/// The anchors that GitHub gives a document's headings.
fn anchors(document: &str) -> Vec<String> {
    let headings = document.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| -> String {
        let text = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = text.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

/// The cells of the table rows whose first cell is code.
fn rows(document: &str) -> BTreeMap<String, Vec<String>> {
    let lines = document.lines().filter(|line| line.starts_with("| `"));
    let cells =
        lines.map(|line| line.trim_matches('|').split(" | ").map(clean).collect::<Vec<_>>());
    cells.map(|cells| (cells[0].clone(), cells)).collect()
}

fn clean(cell: &str) -> String {
    cell.trim().trim_matches('`').to_owned()
}

fn payonce(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_payonce"));
    command.args(arguments).env_clear().current_dir(env!("CARGO_TARGET_TMPDIR"));
    let output = command.env("DATABASE_URL", "postgres://localhost/documents").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    for path in documents() {
        let document = fs::read_to_string(&path).unwrap();
        for link in document.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = path.parent().unwrap().join(file);
            let target = if file.is_empty() { path.clone() } else { target };
            assert!(target.exists(), "{} links to {link}", path.display());
            if !anchor.is_empty() {
                let known = anchors(&fs::read_to_string(&target).unwrap());
                assert!(known.contains(&anchor.to_owned()), "{} links to {link}", path.display());
            }
        }
    }
}

#[test]
fn the_index_names_every_document() {
    let index = read("docs/README.md");
    for path in documents() {
        let Ok(path) = path.strip_prefix(root().join("docs")) else { continue };
        let path = path.to_str().unwrap();
        assert!(path == "README.md" || index.contains(&format!("]({path})")), "{path}");
    }
}

#[test]
fn documents_for_a_first_reading_stay_short() {
    let lines = |path: &str| read(path).lines().count();
    assert!(lines("README.md") <= 150);
    assert!(lines("CONTRIBUTING.md") <= 120);
    assert!(read("ARCHITECTURE.md").len() <= 12 * 1024);
    for path in documents() {
        let decision = path.parent().unwrap().ends_with("docs/decisions");
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(!decision || lines <= 60, "{}: {lines} lines", path.display());
    }
}

#[test]
fn the_configuration_reference_has_every_setting_with_its_default() {
    let settings: Value = serde_json::from_str(&payonce(&["config", "--json"])).unwrap();
    let mut documented = rows(&read("docs/reference/configuration.md"));
    for setting in settings.as_array().unwrap() {
        let name = setting["name"].as_str().unwrap();
        let row = documented.remove(name).expect(name);
        let default = match (setting["source"].as_str().unwrap(), setting["value"].as_str()) {
            ("environment", _) => "required",
            // It follows another setting.
            _ if name == "ACCOUNT_QUEUE_LIMIT" => "¾ of `QUEUE_LIMIT",
            (_, Some(value)) => value,
            (_, None) => "not set",
        };
        assert_eq!(row[1], default, "{name}");
    }
    assert!(documented.is_empty(), "{documented:?}");
}

#[test]
fn the_problem_reference_has_every_problem_with_its_status_and_retry() {
    let description: Value = serde_json::from_str(&read("docs/openapi.json")).unwrap();
    let codes = &description["components"]["schemas"]["Problem"]["properties"]["code"]["enum"];
    // "- `code` (status): …" below "## `retry`".
    let mut documented = BTreeMap::new();
    let mut retry = String::new();
    for line in read("docs/reference/problems.md").lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            retry = clean(heading);
        } else if let Some((code, rest)) =
            line.strip_prefix("- `").and_then(|it| it.split_once("` ("))
            && !retry.is_empty()
        {
            let (status, _) = rest.split_once("): ").expect(line);
            documented.insert(code.to_owned(), (status.to_owned(), retry.clone()));
        }
    }
    for code in codes.as_array().unwrap() {
        let code = code.as_str().unwrap();
        let problem = &description["components"]["examples"][code]["value"];
        let expected = (problem["status"].to_string(), clean(problem["retry"].as_str().unwrap()));
        assert_eq!(documented.remove(code), Some(expected), "{code}");
    }
    assert!(documented.is_empty(), "{documented:?}");
}

#[test]
fn the_command_line_reference_has_every_command() {
    let reference = read("docs/reference/command-line.md");
    let help = payonce(&["--help"]);
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands = commands.take_while(|line| !line.is_empty());
    // Two spaces before a command, more before the rest of its description.
    let names = commands.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let names: Vec<_> = names.filter(|name| !matches!(*name, "" | "help")).collect();
    assert!(names.len() > 8, "{names:?}");
    for name in names {
        assert!(reference.contains(&format!("`payonce {name}")), "{name}");
    }
}

#[test]
fn the_http_reference_has_every_endpoint() {
    let description: Value = serde_json::from_str(&read("docs/openapi.json")).unwrap();
    let reference = read("docs/reference/http-api.md");
    for (path, methods) in description["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys().filter(|_| path != "/docs/{file}") {
            let endpoint = format!("`{} {path}", method.to_uppercase());
            let ends = |rest: &str| rest.starts_with(['`', '?']);
            let named = reference.split(&endpoint).skip(1).any(ends);
            assert!(named, "{endpoint}");
        }
    }
}
