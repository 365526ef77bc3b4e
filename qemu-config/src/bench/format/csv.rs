//! The rows as comma-separated values, with the units in the header.

use hmmgpu_guest_protocol::bench::{Direction, Trigger};
use serde::Serialize;

use crate::bench::result::{BenchResult, LimitBy, Row};
use crate::bench::table::orders;

/// A line. The names of the fields are the header.
#[derive(Serialize)]
struct Line {
    source_order: u8,
    direction: Direction,
    trigger: Trigger,
    verified: bool,
    rounds: u32,
    round_bytes: u64,
    bytes: u64,
    /// `order:folios`, separated by spaces.
    device_orders: String,
    source_share: f64,
    migration_bytes_per_s_median: f64,
    migration_bytes_per_s_min: f64,
    migration_bytes_per_s_max: f64,
    engine_bytes_per_s_median: f64,
    engine_bytes_per_s_min: f64,
    engine_bytes_per_s_max: f64,
    migration_s_median: f64,
    guest_s_median: f64,
    copy_share: f64,
    latency_us_p50: f64,
    latency_us_p99: f64,
    queue_wait_us_p50: f64,
    queue_wait_us_p99: f64,
    collect_s: Option<f64>,
    alloc_s: Option<f64>,
    copy_s: Option<f64>,
    commit_s: Option<f64>,
    finish_s: Option<f64>,
    splits: u64,
    /// `order:reason:folios`, separated by spaces.
    fallbacks: String,
    s_per_gib: Option<f64>,
    doorbells_per_2mib: Option<f64>,
    floor_bytes_per_s_median: Option<f64>,
    floor_bytes_per_s_min: Option<f64>,
    floor_bytes_per_s_max: Option<f64>,
    limit_bytes_per_s_median: Option<f64>,
    limit_by: Option<&'static str>,
    limit_ratio_median: Option<f64>,
    limit_ratio_min: Option<f64>,
    limit_ratio_max: Option<f64>,
    test_hmm_bytes_per_s_median: Option<f64>,
    test_hmm_bytes_per_s_min: Option<f64>,
    test_hmm_bytes_per_s_max: Option<f64>,
    test_hmm_ratio_median: Option<f64>,
    test_hmm_ratio_min: Option<f64>,
    test_hmm_ratio_max: Option<f64>,
}

impl Line {
    fn of(row: &Row) -> Self {
        let (migration, engine) = (&row.migration_bytes_per_s, &row.engine_bytes_per_s);
        let fallbacks: Vec<String> = row
            .fallbacks
            .iter()
            .map(|fallback| format!("{}:{}:{}", fallback.order, fallback.reason, fallback.folios))
            .collect();
        let phases = row.phases.as_ref();
        let (floor, limit_ratio) = (row.floor_bytes_per_s.as_ref(), row.limit_ratio.as_ref());
        let test_hmm = row.test_hmm_bytes_per_s.as_ref();
        let test_hmm_ratio = row.test_hmm_ratio.as_ref();
        Self {
            source_order: row.source_order,
            direction: row.direction,
            trigger: row.trigger,
            verified: row.verified,
            rounds: row.repeats,
            round_bytes: row.round_bytes,
            bytes: row.bytes,
            device_orders: orders(&row.device_orders),
            source_share: row.source_share,
            migration_bytes_per_s_median: migration.median,
            migration_bytes_per_s_min: migration.min,
            migration_bytes_per_s_max: migration.max,
            engine_bytes_per_s_median: engine.median,
            engine_bytes_per_s_min: engine.min,
            engine_bytes_per_s_max: engine.max,
            migration_s_median: row.migration_s.median,
            guest_s_median: row.guest_s.median,
            copy_share: row.copy_share,
            latency_us_p50: row.latency_us.p50,
            latency_us_p99: row.latency_us.p99,
            queue_wait_us_p50: row.queue_wait_us.p50,
            queue_wait_us_p99: row.queue_wait_us.p99,
            collect_s: phases.map(|phases| phases.collect_s),
            alloc_s: phases.map(|phases| phases.alloc_s),
            copy_s: phases.map(|phases| phases.copy_s),
            commit_s: phases.map(|phases| phases.commit_s),
            finish_s: phases.map(|phases| phases.finish_s),
            splits: row.splits,
            fallbacks: fallbacks.join(" "),
            s_per_gib: row.s_per_gib,
            doorbells_per_2mib: row.doorbells_per_2mib,
            floor_bytes_per_s_median: floor.map(|stat| stat.median),
            floor_bytes_per_s_min: floor.map(|stat| stat.min),
            floor_bytes_per_s_max: floor.map(|stat| stat.max),
            limit_bytes_per_s_median: row.limit_bytes_per_s.as_ref().map(|stat| stat.median),
            limit_by: row.limit_by.map(LimitBy::name),
            limit_ratio_median: limit_ratio.map(|stat| stat.median),
            limit_ratio_min: limit_ratio.map(|stat| stat.min),
            limit_ratio_max: limit_ratio.map(|stat| stat.max),
            test_hmm_bytes_per_s_median: test_hmm.map(|stat| stat.median),
            test_hmm_bytes_per_s_min: test_hmm.map(|stat| stat.min),
            test_hmm_bytes_per_s_max: test_hmm.map(|stat| stat.max),
            test_hmm_ratio_median: test_hmm_ratio.map(|stat| stat.median),
            test_hmm_ratio_min: test_hmm_ratio.map(|stat| stat.min),
            test_hmm_ratio_max: test_hmm_ratio.map(|stat| stat.max),
        }
    }
}

/// A header, and a line for each row; nothing where there is no row.
pub(super) fn render(result: &BenchResult) -> String {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in &result.rows {
        // Into memory, and every line has the same fields: nothing can fail.
        if let Err(error) = writer.serialize(Line::of(row)) {
            tracing::error!("a row is missing in the CSV: {error}");
        }
    }
    let bytes = writer.into_inner().unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::example::{result, row, with_limit};
    use crate::bench::result::Fallback;

    #[test]
    fn the_whole_text() {
        let mut first = row(9, 9, 4e9);
        first.phases = None;
        first.fallbacks = vec![Fallback {
            order: 9,
            reason: "no \"vram\", at all".into(),
            folios: 2,
        }];
        let expected = "\
source_order,direction,trigger,verified,rounds,round_bytes,bytes,device_orders,source_share,\
migration_bytes_per_s_median,migration_bytes_per_s_min,migration_bytes_per_s_max,\
engine_bytes_per_s_median,engine_bytes_per_s_min,engine_bytes_per_s_max,migration_s_median,\
guest_s_median,copy_share,latency_us_p50,latency_us_p99,queue_wait_us_p50,queue_wait_us_p99,\
collect_s,alloc_s,copy_s,commit_s,finish_s,splits,fallbacks,s_per_gib,doorbells_per_2mib,\
floor_bytes_per_s_median,floor_bytes_per_s_min,floor_bytes_per_s_max,limit_bytes_per_s_median,\
limit_by,limit_ratio_median,limit_ratio_min,limit_ratio_max,test_hmm_bytes_per_s_median,\
test_hmm_bytes_per_s_min,test_hmm_bytes_per_s_max,test_hmm_ratio_median,test_hmm_ratio_min,\
test_hmm_ratio_max
9,sys_to_dev,prefetch,true,5,268435456,1342177280,9:128,1.0,\
4000000000.0,2000000000.0,8000000000.0,\
8000000000.0,8000000000.0,8000000000.0,0.067108864,\
0.08388608,0.756,12.4,123456.0,0.8,3.2,\
,,,,,3,\"9:no \"\"vram\"\", at all:2\",\
0.268435456,0.05,,,,,,,,,,,,,,
";
        assert_eq!(render(&result(vec![first])), expected);
    }

    #[test]
    fn phases_and_limits_have_columns() {
        let text = render(&result(vec![with_limit(row(9, 9, 4e9))]));
        let expected = "0.01,0.002,0.07,0.015,0.003,3,,0.268435456,0.05,\
16000000000.0,16000000000.0,16000000000.0,8000000000.0,engine,0.5,0.25,1.0,,,,,,\n";
        assert!(text.ends_with(expected), "{text}");
        assert_eq!(render(&result(vec![])), "");
    }
}
