//! The command that repeats one scenario of a run.

/// Options of the run that do not belong to one scenario, all with a value.
const LEFT_OUT: &[&str] = &[
    "--scenario",
    "--seed",
    "--minutes",
    "--json",
    "--trace",
    "--metrics",
    "--console-log",
];

/// From the arguments of the run (without the program's name), those that make the machine, for
/// this scenario and seed.
pub fn command(arguments: &[String], scenario: &str, seed: u32) -> String {
    let mut words = vec![
        "hmmgpu".to_owned(),
        "stress".to_owned(),
        "--scenario".to_owned(),
        scenario.to_owned(),
        "--seed".to_owned(),
        seed.to_string(),
    ];
    let mut rest = arguments.iter();
    while let Some(word) = rest.next() {
        let (name, value) = word
            .split_once('=')
            .map_or((word.as_str(), false), |(n, _)| (n, true));
        if LEFT_OUT.contains(&name) {
            if !value {
                rest.next();
            }
        } else if word != "stress" {
            words.push(word.clone());
        }
    }
    crate::qemu::command_line::shell_words(&words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_the_machine_stays() {
        let arguments = [
            "stress",
            "--minutes",
            "30",
            "--scenario=ksm",
            "--kernel",
            "debian:7.2",
            "--seed",
            "3",
            "--json",
            "a b.json",
            "--driver-params",
            "x=1 y=2",
            "-q",
        ];
        let arguments: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
        assert_eq!(
            command(&arguments, "kill", 9),
            "hmmgpu stress --scenario kill --seed 9 --kernel debian:7.2 --driver-params 'x=1 y=2' -q"
        );
    }
}
