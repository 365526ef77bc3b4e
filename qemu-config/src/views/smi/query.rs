//! Named fields of each GPU, as CSV or JSON.

use std::str::FromStr;
use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::Gpu;
use super::fields::{Context, Field};

/// Schema of the JSON.
const SCHEMA: &str = "hmmgpu.query/1";

/// Fields that were asked for.
#[derive(Clone, Debug)]
pub struct Query(Vec<Field>);

impl FromStr for Query {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',')
            .map(|name| {
                let name = name.trim();
                Field::find(name).ok_or_else(|| {
                    format!("there is no field '{name}'; 'hmmgpu smi --help-query' lists them")
                })
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// How fields are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Comma-separated values.
    Csv {
        /// With a line of names first.
        header: bool,
        /// With units, in the header and at each value.
        units: bool,
    },
    /// One JSON document.
    Json,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split(',').map(str::trim);
        match words.next() {
            Some("json") => match words.next() {
                None => Ok(Self::Json),
                Some(word) => Err(format!("'{word}' is for csv")),
            },
            Some("csv") => {
                let (mut header, mut units) = (true, true);
                for word in words {
                    match word {
                        "noheader" => header = false,
                        "nounits" => units = false,
                        _ => return Err(format!("'{word}' is none of noheader, nounits")),
                    }
                }
                Ok(Self::Csv { header, units })
            }
            _ => Err("write csv, csv,noheader, csv,nounits, csv,noheader,nounits or json".into()),
        }
    }
}

impl Query {
    /// The fields of the GPUs that say anything, one line each. `first`: of several times.
    pub fn print(&self, gpus: &[Gpu], format: Format, first: bool) -> anyhow::Result<String> {
        let timestamp = timestamp();
        let mut rows = Vec::new();
        for (index, gpu) in gpus.iter().enumerate() {
            if let Ok(sample) = &gpu.state {
                let context = Context {
                    index,
                    control: &gpu.control.display().to_string(),
                    timestamp: &timestamp,
                    sample,
                };
                let values = self.0.iter().map(|field| field.value(&context));
                rows.push(values.collect::<Vec<_>>());
            }
        }
        match format {
            Format::Json => Ok(self.json(rows)),
            Format::Csv { header, units } => self.csv(&rows, header && first, units),
        }
    }

    fn csv(&self, rows: &[Vec<Value>], header: bool, units: bool) -> anyhow::Result<String> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        if header {
            writer.write_record(self.0.iter().map(|field| match field.unit {
                unit if units && !unit.is_empty() => format!("{} [{unit}]", field.name),
                _ => field.name.clone(),
            }))?;
        }
        for row in rows {
            let cells = self.0.iter().zip(row).map(|(field, value)| {
                let text = match value {
                    Value::Null => return "N/A".to_owned(),
                    Value::String(text) => crate::text::printable(text.as_bytes()),
                    Value::Number(number) => number_text(number),
                    other => other.to_string(),
                };
                match field.unit {
                    unit if units && !unit.is_empty() => format!("{text} {unit}"),
                    _ => text,
                }
            });
            writer.write_record(cells)?;
        }
        Ok(String::from_utf8(writer.into_inner()?)?)
    }

    fn json(&self, rows: Vec<Vec<Value>>) -> String {
        let units: Map<String, Value> = self
            .0
            .iter()
            .filter(|field| !field.unit.is_empty())
            .map(|field| (field.name.clone(), json!(field.unit)))
            .collect();
        let gpus: Vec<Map<String, Value>> = rows
            .into_iter()
            .map(|row| {
                let names = self.0.iter().map(|field| field.name.clone());
                names.zip(row).collect()
            })
            .collect();
        let mut text = json!({"schema": SCHEMA, "units": units, "gpus": gpus}).to_string();
        text.push('\n');
        text
    }
}

/// Whole numbers as they are, others with three digits after the point.
fn number_text(number: &serde_json::Number) -> String {
    match number.as_f64() {
        Some(value) if number.is_f64() => {
            let text = format!("{value:.3}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        _ => number.to_string(),
    }
}

/// The time, UTC, to the second.
pub(super) fn timestamp() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::sample;

    fn print(fields: &str, format: &str) -> String {
        let gpus = [sample::gpu()];
        let query: Query = fields.parse().unwrap();
        query.print(&gpus, format.parse().unwrap(), true).unwrap()
    }

    #[test]
    fn csv_as_users_of_other_gpus_know_it() {
        let fields = "index, label, vram.used, utilization.copy, sys_to_dev.o9.migration, \
                      faults.gpu, sys_to_dev.o3.p50";
        assert_eq!(
            print(fields, "csv"),
            "index,label,vram.used [MiB],utilization.copy [%],sys_to_dev.o9.migration [GB/s],\
             faults.gpu,sys_to_dev.o3.p50 [us]\n\
             0,bench,516 MiB,40 %,10.486 GB/s,30796,N/A\n"
        );
        assert_eq!(
            print(fields, "csv,noheader,nounits"),
            "0,bench,516,40,10.486,30796,N/A\n"
        );
    }

    #[test]
    fn json_has_numbers_and_their_units() {
        let text = print(
            "vram.used,label,throughput.sys_to_dev,sys_to_dev.o3.p50",
            "json",
        );
        let document: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["schema"], "hmmgpu.query/1");
        assert_eq!(document["units"]["vram.used"], "MiB");
        let gpu = &document["gpus"][0];
        assert_eq!(gpu["vram.used"], 516.0);
        assert_eq!(gpu["label"], "bench");
        assert_eq!(gpu["throughput.sys_to_dev"], 1.048_576);
        assert!(gpu["sys_to_dev.o3.p50"].is_null());
    }

    #[test]
    fn what_does_not_exist_is_refused() {
        let error = "index,vram.sued".parse::<Query>().unwrap_err();
        assert!(error.contains("vram.sued") && error.contains("--help-query"));
        for format in ["", "xml", "csv,nohead", "json,nounits"] {
            assert!(format.parse::<Format>().is_err(), "{format}");
        }
    }
}
