//! One page of HTML with everything in it: it opens without a network.

use std::fmt::Write as _;

use super::plot::Plot;
use super::report::{FamilyReport, Report, Target};
use super::table;

const STYLE: &str = "\
body{font:15px/1.5 system-ui,sans-serif;color:#222;max-width:1500px;margin:0 auto;padding:24px}\
h1{margin-bottom:0}h2{border-bottom:2px solid #0072b2;padding-top:24px}\
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}\
th,td{border-bottom:1px solid #ddd;padding:3px 10px;text-align:right;white-space:nowrap}\
th{background:#f3f6f8;position:sticky;top:0}td.l,th.l{text-align:left}\
.wide{overflow-x:auto}.plots{display:flex;flex-wrap:wrap;align-items:flex-start;gap:16px;margin:16px 0}\
figure{margin:0;border:1px solid #ddd;border-radius:4px;background:#fff}\
figure svg{display:block;max-width:100%;height:auto}\
.good{color:#00664d}.bad{color:#b00020;font-weight:bold}code{background:#f3f6f8;padding:1px 4px}\
ul.notes{font-size:13px;color:#555}nav a{margin-right:14px}";

/// The page. `plots` are those of each family.
pub fn html(report: &Report, plots: &[Vec<Plot>]) -> String {
    let mut out = String::new();
    let _ = write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>Memory regions: pinned, in-tree ODP, EMM</title><style>{STYLE}</style></head><body>\n"
    );
    head(&mut out, report);
    targets(&mut out, report);
    for (family, plots) in report.families.iter().zip(plots) {
        section(&mut out, family, plots);
    }
    out.push_str("</body></html>\n");
    out
}

fn head(out: &mut String, report: &Report) {
    let host = &report.host;
    let versions: Vec<String> = report
        .versions
        .iter()
        .map(|(package, version)| format!("{package} {version}"))
        .collect();
    let kind = if report.quick {
        "quick run"
    } else {
        "full run"
    };
    let facts = [
        (
            "command",
            format!("<code>{}</code>", escape(&report.command)),
        ),
        (
            "when",
            format!(
                "{}, {kind} of {:.0} s",
                escape(&report.date),
                report.seconds
            ),
        ),
        ("guest kernel", escape(&report.kernel)),
        (
            "host",
            format!(
                "{}, {} CPUs, {:.0} GiB, kernel {}",
                escape(&host.cpu),
                host.cpus,
                host.memory_bytes as f64 / f64::from(1 << 30),
                escape(&host.kernel)
            ),
        ),
        ("guests", escape(&host.accel.join("; "))),
        ("commit", escape(&report.commit)),
        ("versions", escape(&versions.join(", "))),
    ];
    out.push_str("<h1>Memory regions: pinned, in-tree ODP, EMM</h1><table>");
    for (name, value) in facts {
        let _ = write!(
            out,
            "<tr><th class=\"l\">{name}</th><td class=\"l\" style=\"white-space:normal\">{value}</td></tr>"
        );
    }
    out.push_str("</table><nav><p><a href=\"#targets\">Targets</a>");
    for family in &report.families {
        let _ = write!(
            out,
            "<a href=\"#{}\">{}</a>",
            escape(&family.name),
            escape(&family.title)
        );
    }
    out.push_str(
        "</p></nav><p>Each value is the median of rounds in which the kinds of region take turns; ± and the error bars are its \
         noise, the column of that name is EMM's. Noise is the greatest of what two halves of the same kind's rounds lie apart (A/A; \
         in a full run the halves are two guests), of what four of five of the row's values lie apart so, of the median's uncertainty \
         (1.57 IQR/√n), and of what repeated runs differ by: 1 % on the instruction clock and 3 % on the wall clock, which is meant \
         where no ± stands, and five times that for a single round. \
         Kinds that differ by no more than the noise of both are <em>equal</em>; a target that is missed by no more than its own \
         rounds' noise is <em>within its noise</em>. On the instruction clock a \
         guest's nanosecond is one instruction: such times compare costs, and are no hardware's times. \
         ✗ means that it can't be done; the reason stands below the table.</p>\n",
    );
}

/// The rows that have a target, in one table.
fn targets(out: &mut String, report: &Report) {
    out.push_str("<h2 id=\"targets\">Targets</h2><div class=\"wide\"><table><tr>");
    let titles = [
        "row",
        "case",
        "unit",
        "no MR",
        "pinned",
        "in-tree ODP",
        "EMM",
        "noise",
        "limit for EMM",
        "",
    ];
    for (at, title) in titles.into_iter().enumerate() {
        cell(out, "th", title, at < 3);
    }
    out.push_str("</tr>\n");
    for case in report.cases() {
        let Some(target) = &case.target else { continue };
        out.push_str("<tr>");
        for text in [&case.row, &case.case, table::unit(case)] {
            cell(out, "td", text, true);
        }
        for mr in ["none", "pinned", "odp", "emm"] {
            cell(out, "td", &table::cell(case, mr), false);
        }
        cell(out, "td", &table::noise(case), false);
        cell(out, "td", &target.limits, false);
        verdict(out, target.holds(), &target.verdict);
        out.push_str("</tr>\n");
    }
    out.push_str("</table></div>\n");
}

fn verdict(out: &mut String, good: bool, text: &str) {
    let class = if good { "good" } else { "bad" };
    let _ = write!(out, "<td class=\"{class}\">{}</td>", escape(text));
}

fn section(out: &mut String, family: &FamilyReport, plots: &[Plot]) {
    let _ = write!(
        out,
        "<h2 id=\"{}\">{}</h2><p>{}",
        escape(&family.name),
        escape(&family.title),
        escape(&family.about)
    );
    if !family.none.is_empty() {
        let _ = write!(out, " <b>no MR</b>: {}.", escape(&family.none));
    }
    out.push_str("</p><div class=\"plots\">");
    for plot in plots {
        let _ = write!(
            out,
            "<figure role=\"img\" aria-label=\"{}\">{}</figure>",
            escape(&plot.title),
            plot.svg
        );
    }
    out.push_str("</div>");
    let lines: Vec<Vec<String>> = family
        .cases
        .iter()
        .map(|c| table::line(family, c))
        .collect();
    let good = |at: usize| family.cases[at].target.as_ref().is_none_or(Target::holds);
    rows(out, &table::head(family), &lines, good);
    if let [head, lines @ ..] = &table::tails(family)[..] {
        if !lines.is_empty() {
            out.push_str("<p>Tails of single operations: median / 99 % / 99.9 % / worst.</p>");
            rows(out, head, lines, |_| true);
        }
    }
    out.push_str("<ul class=\"notes\">");
    for note in table::notes(family) {
        let _ = write!(out, "<li>{}</li>", escape(&note));
    }
    out.push_str("</ul>\n");
}

/// A table; the last cell of a line shows whether all is `good` there.
fn rows(out: &mut String, head: &[String], lines: &[Vec<String>], good: impl Fn(usize) -> bool) {
    out.push_str("<div class=\"wide\"><table><tr>");
    for (at, title) in head.iter().enumerate() {
        cell(out, "th", title, at < 3);
    }
    out.push_str("</tr>\n");
    for (number, line) in lines.iter().enumerate() {
        out.push_str("<tr>");
        for (at, text) in line.iter().enumerate() {
            if at + 1 == head.len() && head[at] == "target" {
                verdict(out, good(number), text);
            } else {
                cell(out, "td", text, at < 3);
            }
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</table></div>");
}

fn cell(out: &mut String, tag: &str, text: &str, left: bool) {
    let class = if left { " class=\"l\"" } else { "" };
    let _ = write!(out, "<{tag}{class}>{}</{tag}>", escape(text));
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::{case, report};
    use super::*;

    #[test]
    fn the_page_needs_nothing_else() {
        let report = report(vec![case(&[("none", &[10.0]), ("emm", &[5.0])])]);
        let plots = super::super::plot::plots(&report.families[0]).unwrap();
        let page = html(&report, &[plots]);
        for outside in ["<script", "<link", "src=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("<svg") && page.contains("reached"));
        assert_eq!(escape("a<b&\"c\""), "a&lt;b&amp;&quot;c&quot;");
    }
}
