//! A result as one page of HTML: no network, no script, light and dark, for screen and paper.
//!
//! Every figure on the page that is one of the result's carries it unrounded: `data-key` is its
//! place in the JSON (a JSON pointer) and `data-value` its value there.

mod charts;
mod figure;
mod headline;
mod tables;
#[cfg(test)]
mod tests;
mod vram;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::bench::result::BenchResult;

const STYLE: &str = include_str!("style.css");

/// The whole page.
pub fn render(result: &BenchResult) -> String {
    let environment = &result.environment;
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                // Nothing is fetched, whatever the result says.
                meta http-equiv="Content-Security-Policy"
                    content="default-src 'none'; style-src 'unsafe-inline'; img-src data:";
                title { "hmmgpu bench: Linux " (environment.kernel) }
                link rel="icon" href="data:,";
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    header {
                        h1 { "Migration of device-private memory, by folio order" }
                        p.sub {
                            "Linux " (known(&environment.kernel)) " on QEMU " (known(&environment.qemu))
                            ", " (known(&environment.accel)) ", " (environment.cpus) " CPUs, hmmgpu "
                            (known(&environment.revision))
                        }
                    }
                    (headline::verdict(result))
                    @if result.rows.is_empty() {
                        p.empty { "Nothing was measured." }
                    } @else {
                        (headline::tiles(result))
                        (charts::throughput(&result.rows))
                        (charts::copy_share(&result.rows))
                        (charts::phases(&result.rows))
                        (charts::latency(&result.rows))
                    }
                    @if let Some(history) = &result.vram_history {
                        (vram::section_of(history))
                    }
                    @if !result.rows.is_empty() {
                        (tables::rows(&result.rows))
                        (tables::fallbacks(&result.rows))
                    }
                    (tables::counters(&result.counters))
                    (tables::environment(result))
                }
            }
        }
    };
    page.into_string()
}

/// Text that may be missing.
fn known(text: &str) -> &str {
    if text.is_empty() { "?" } else { text }
}

/// A part of the page, with what it says in a sentence.
fn section(id: &str, heading: &str, words: &str, body: Markup) -> Markup {
    html! {
        section id=(id) aria-labelledby={ (id) "-heading" } {
            h2 id={ (id) "-heading" } { (heading) }
            p.words { (words) }
            (body)
        }
    }
}
