//! Metrics, their documentation, alerts and dashboard agree.

use std::{collections::BTreeMap, process::Stdio};

use payonce_testing::metrics::text;

use crate::metrics::counters::busy;

/// Names, types and help texts of all metrics, sorted by name.
fn families(text: &str) -> BTreeMap<&str, (&str, &str)> {
    let help = text.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' '));
    let kinds: BTreeMap<_, _> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    help.map(|(name, help)| (name, (kinds[name], help))).collect()
}

#[tokio::test]
async fn names_units_and_help_texts_follow_the_prometheus_conventions() {
    let server = busy().await;
    let text = text(&server).await;
    for (name, (kind, help)) in families(&text) {
        assert!(name.starts_with("payonce_") || name.starts_with("process_"), "{name}");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
        assert!(help.ends_with('.'), "{name}: {help}");
        if kind == "histogram" {
            assert!(name.ends_with("_seconds") || name.ends_with("_commands"), "{name}");
        }
    }
    promtool(&["check", "metrics"], &text);
}

#[tokio::test]
async fn the_documentation_lists_exactly_the_metrics_that_are_served() {
    let server = busy().await;
    let text = text(&server).await;
    let page = repository("docs/reference/metrics.md");
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>());
    let documented: BTreeMap<_, _> =
        cells.map(|cells| (cells[0].trim_matches('`').to_owned(), cells)).collect();
    let served = families(&text);
    assert_eq!(
        documented.keys().map(String::as_str).collect::<Vec<_>>(),
        served.keys().copied().collect::<Vec<_>>()
    );
    for (name, cells) in &documented {
        assert_eq!(cells[1], served[name.as_str()].0, "{name}");
        let line = text.lines().find(|line| {
            let series = line.strip_prefix(name.as_str());
            series.is_some_and(|rest| rest.starts_with(['{', ' ', '_']))
        });
        let labels = line.unwrap().split_once('{').map_or("", |(_, labels)| labels);
        let mut labels: Vec<&str> =
            labels.split(',').filter_map(|label| Some(label.split_once('=')?.0)).collect();
        labels.retain(|label| *label != "le");
        let mut told: Vec<&str> =
            cells[2].split(", ").map(|label| label.trim_matches('`')).collect();
        told.retain(|label| !label.is_empty());
        told.sort_unstable();
        labels.sort_unstable();
        assert_eq!(told, labels, "{name}");
    }
}

#[tokio::test]
async fn alerts_and_dashboard_use_existing_metrics_and_each_alert_has_a_runbook() {
    let server = busy().await;
    let text = text(&server).await;
    let served = families(&text);
    let alerts = repository("deploy/prometheus/alerts.yml");
    let dashboard = repository("deploy/grafana/payonce.json");
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    for word in alerts.split(|c| !is_word(c)).chain(dashboard.split(|c| !is_word(c))) {
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end));
        let known = served.contains_key(word) || family.is_some_and(|it| served.contains_key(it));
        assert!(known || !(word.starts_with("payonce_") || word.starts_with("process_")), "{word}");
    }
    let runbooks = repository("docs/operations/runbooks.md");
    let named = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    let named: Vec<&str> = named.collect();
    let sections: Vec<&str> =
        runbooks.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert_eq!(named, sections);
    for alert in named {
        let url = format!(
            "runbook_url: \"{{{{ $externalURL }}}}/user/runbooks.md#{}\"",
            alert.to_lowercase()
        );
        assert!(alerts.contains(&url), "{url}");
    }
    for part in ["summary:", "description:", "runbook_url:"] {
        assert_eq!(alerts.matches(part).count(), sections.len(), "{part}");
    }
    promtool(&["check", "rules", "deploy/prometheus/alerts.yml"], "");
    promtool(&["check", "config", "deploy/prometheus/prometheus.yml"], "");
    promtool(&["test", "rules", "deploy/prometheus/alerts.test.yml"], "");
}

fn repository(path: &str) -> String {
    std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// Runs `promtool`, if it is installed.
fn promtool(arguments: &[&str], input: &str) {
    let folder = env!("CARGO_MANIFEST_DIR");
    let child = std::process::Command::new("promtool")
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        eprintln!("not checked: promtool is not installed");
        return;
    };
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}
