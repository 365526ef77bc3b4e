//! The QEMU command line as data.

use std::path::{Path, PathBuf};

use hmmgpu_guest_protocol::{PORT_EVENTS, PORT_STDERR, PORT_STDIN, PORT_STDOUT};
use hmmgpu_images::KernelSpec;

use crate::accel::Accel;
use crate::size::Size;

/// A machine, complete. All paths are as QEMU sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// What it runs with.
    pub accel: Accel,
    /// Guest memory.
    pub memory: Size,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Bits of a physical address; none: as many as the CPU has.
    pub phys_bits: Option<u32>,
    /// Each GPU is behind a port of its own, so that it can be unplugged.
    pub pluggable: bool,
    /// Kernel image.
    pub kernel: PathBuf,
    /// Initramfs.
    pub initrd: PathBuf,
    /// The guest kernel's command line, one word each.
    pub kernel_args: Vec<String>,
    /// Socket of the device server of each GPU, in their order on the bus.
    pub device_sockets: Vec<PathBuf>,
    /// More devices, each the value of one `-device` option.
    pub devices: Vec<String>,
    /// Where the launcher listens.
    pub sockets: Sockets,
}

/// Unix sockets on which the launcher listens; QEMU connects to each before the machine starts,
/// so nothing that the guest says is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sockets {
    /// QMP.
    pub qmp: PathBuf,
    /// The kernel's console, ttyS0.
    pub console: PathBuf,
    /// Events of init.
    pub events: PathBuf,
    /// Standard output of the command.
    pub stdout: PathBuf,
    /// Standard error of the command.
    pub stderr: PathBuf,
    /// Standard input of the command.
    pub stdin: PathBuf,
    /// The terminal, hvc0, of an interactive job.
    pub terminal: Option<PathBuf>,
}

impl Sockets {
    /// With their usual short names in one folder.
    pub fn in_folder(folder: &Path, terminal: bool) -> Self {
        let at = |name: &str| folder.join(name);
        Self {
            qmp: at("qmp"),
            console: at("console"),
            events: at("events"),
            stdout: at("stdout"),
            stderr: at("stderr"),
            stdin: at("stdin"),
            terminal: terminal.then(|| at("terminal")),
        }
    }

    /// Identifier of the character device, and its socket.
    fn named(&self) -> Vec<(&'static str, &Path)> {
        let mut all: Vec<(&'static str, &Path)> = vec![
            ("qmp", &self.qmp),
            ("console", &self.console),
            ("events", &self.events),
            ("stdout", &self.stdout),
            ("stderr", &self.stderr),
            ("stdin", &self.stdin),
        ];
        all.extend(self.terminal.as_deref().map(|path| ("terminal", path)));
        all
    }
}

/// Words that every guest gets: the console that is logged, a kernel that ends at once when it is
/// broken, instead of hanging, and no test of the timer's interrupt, which fails on a host that is
/// busy and leaves a guest without interrupts (other hypervisors' guests switch it off themselves).
pub const BASE_KERNEL_ARGS: &[&str] = &[
    "console=ttyS0",
    "loglevel=5",
    "panic=-1",
    "oops=panic",
    "no_timer_check",
];

/// Words that a kernel needs for what it is. An interrupt in the moment in which `identify_cpu()` has
/// the processor's features cleared makes a debug kernel's KASAN take right addresses for wild, if
/// there are five levels of page tables; after that report KASAN and lockdep say nothing any more.
pub fn needed_by(kernel: Option<&KernelSpec>) -> &'static [&'static str] {
    match kernel {
        Some(KernelSpec::Debug(_)) => &["no5lvl"],
        _ => &[],
    }
}

/// The kernel's command line: the base; under TCG no zeroing if so wished, and the rate of the cycle
/// counter (asked for only then, since [`host_khz`](super::ticks::host_khz) takes its time) if it is
/// known; and what was added. An added word replaces an earlier one of the same key, except for
/// `console`, of which there may be several.
pub fn kernel_args<'a>(
    accel: Accel,
    zeroing: bool,
    tsc_khz: fn() -> Option<u32>,
    added: impl IntoIterator<Item = &'a str>,
) -> Vec<String> {
    let key = |word: &str| word.split_once('=').map_or(word, |(key, _)| key).to_owned();
    let mut words: Vec<String> = BASE_KERNEL_ARGS
        .iter()
        .map(|word| (*word).to_owned())
        .collect();
    if !zeroing && accel == Accel::Tcg {
        words.push("init_on_alloc=0".into());
    }
    if accel == Accel::Tcg {
        words.extend(tsc_khz().map(|khz| format!("tsc_early_khz={khz}")));
    }
    for word in added {
        let added_key = key(word);
        if added_key != "console" {
            words.retain(|earlier| key(earlier) != added_key);
        }
        words.push(word.to_owned());
    }
    words
}

/// A comma ends a value in QEMU's option syntax, two are one of the value.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

impl Machine {
    /// QEMU's arguments, without the program's name.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        let mut add =
            |words: &[&str]| arguments.extend(words.iter().map(|word| (*word).to_owned()));

        // Only what is named here exists, and nothing starts before the launcher says so.
        add(&[
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
            "-S",
        ]);
        add(&["-name", "hmmgpu"]);
        add(&["-machine", "q35,memory-backend=ram"]);
        let phys_bits = match (self.phys_bits, self.accel) {
            (None, _) => String::new(),
            (Some(bits), Accel::Kvm) => format!(",host-phys-bits=off,phys-bits={bits}"),
            (Some(bits), Accel::Tcg) => format!(",phys-bits={bits}"),
        };
        match self.accel {
            Accel::Kvm => add(&["-accel", "kvm", "-cpu", &format!("host{phys_bits}")]),
            // String instructions are slow to translate: without their fast-string flags the
            // guest's kernel copies with plain moves.
            Accel::Tcg => add(&[
                "-accel",
                "tcg,thread=multi",
                "-cpu",
                &format!("max,erms=off,fsrm=off{phys_bits}"),
            ]),
        }
        add(&["-smp", &self.cpus.to_string()]);
        let memory = self.memory.0;
        add(&["-m", &format!("size={}M", memory >> 20)]);
        // Shared memory with a file behind it is what the device can map.
        add(&[
            "-object",
            &format!("memory-backend-memfd,id=ram,size={memory},share=on"),
        ]);

        add(&["-kernel", &self.kernel.to_string_lossy()]);
        add(&["-initrd", &self.initrd.to_string_lossy()]);
        add(&["-append", &self.kernel_args.join(" ")]);

        for (id, path) in self.sockets.named() {
            add(&[
                "-chardev",
                &format!("socket,id={id},path={}", escaped(path)),
            ]);
        }
        add(&["-qmp", "chardev:qmp"]);
        add(&["-serial", "chardev:console"]);
        add(&["-device", "virtio-serial-pci,id=ports"]);
        if self.sockets.terminal.is_some() {
            add(&["-device", "virtconsole,bus=ports.0,nr=0,chardev=terminal"]);
        }
        for (number, (id, name)) in [
            ("events", PORT_EVENTS),
            ("stdout", PORT_STDOUT),
            ("stderr", PORT_STDERR),
            ("stdin", PORT_STDIN),
        ]
        .into_iter()
        .enumerate()
        {
            let number = number + 1;
            add(&[
                "-device",
                &format!("virtserialport,bus=ports.0,nr={number},chardev={id},name={name}"),
            ]);
        }
        for (gpu, socket) in (0..).zip(&self.device_sockets) {
            if self.pluggable {
                add(&["-device", &port(gpu)]);
            }
            let device = gpu_device(socket, gpu, self.pluggable);
            add(&["-device", &device.to_string()]);
        }
        for device in &self.devices {
            add(&["-device", device]);
        }
        arguments
    }
}

/// What QEMU calls a GPU that can be unplugged.
pub fn gpu_id(gpu: u32) -> String {
    format!("gpu{gpu}")
}

/// The port that a GPU can be unplugged from.
fn port(gpu: u32) -> String {
    let number = gpu + 1;
    format!("pcie-root-port,id=port{gpu},chassis={number}")
}

/// A GPU as `-device` and `device_add` take it: as the server says, and where it is plugged in.
pub fn gpu_device(socket: &Path, gpu: u32, pluggable: bool) -> serde_json::Value {
    let arguments = hmmgpu_server::qemu_arguments(socket);
    let device = arguments
        .windows(2)
        .find(|pair| pair[0] == "-device")
        .and_then(|pair| serde_json::from_str(&pair[1]).ok());
    let mut device: serde_json::Value = device.unwrap_or_default();
    if pluggable {
        device["id"] = gpu_id(gpu).into();
        device["bus"] = format!("port{gpu}").into();
    }
    device
}

/// As text that a shell reads back: for a person to try.
pub fn shell_words(arguments: &[String]) -> String {
    let quote = |word: &String| {
        let plain = !word.is_empty()
            && word
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_=,./:+@%".contains(c));
        if plain {
            word.clone()
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    };
    arguments.iter().map(quote).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::size::GIB;

    fn machine() -> Machine {
        Machine {
            accel: Accel::Tcg,
            memory: Size(2 * GIB),
            cpus: 2,
            phys_bits: None,
            pluggable: false,
            kernel: "/vm/vmlinuz".into(),
            initrd: "/vm/initrd".into(),
            kernel_args: kernel_args(
                Accel::Tcg,
                false,
                || Some(2_600_000),
                ["transparent_hugepage=always"],
            ),
            device_sockets: vec!["/vm/gpu".into()],
            devices: vec![],
            sockets: Sockets::in_folder(Path::new("/vm"), false),
        }
    }

    /// The values of an option.
    fn values<'a>(arguments: &'a [String], option: &str) -> Vec<&'a str> {
        arguments
            .windows(2)
            .filter(|pair| pair[0] == option)
            .map(|pair| pair[1].as_str())
            .collect()
    }

    #[test]
    fn the_whole_command_line() {
        let expected = [
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
            "-S",
            "-name",
            "hmmgpu",
            "-machine",
            "q35,memory-backend=ram",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max,erms=off,fsrm=off",
            "-smp",
            "2",
            "-m",
            "size=2048M",
            "-object",
            "memory-backend-memfd,id=ram,size=2147483648,share=on",
            "-kernel",
            "/vm/vmlinuz",
            "-initrd",
            "/vm/initrd",
            "-append",
            "console=ttyS0 loglevel=5 panic=-1 oops=panic no_timer_check init_on_alloc=0 tsc_early_khz=2600000 transparent_hugepage=always",
            "-chardev",
            "socket,id=qmp,path=/vm/qmp",
            "-chardev",
            "socket,id=console,path=/vm/console",
            "-chardev",
            "socket,id=events,path=/vm/events",
            "-chardev",
            "socket,id=stdout,path=/vm/stdout",
            "-chardev",
            "socket,id=stderr,path=/vm/stderr",
            "-chardev",
            "socket,id=stdin,path=/vm/stdin",
            "-qmp",
            "chardev:qmp",
            "-serial",
            "chardev:console",
            "-device",
            "virtio-serial-pci,id=ports",
            "-device",
            "virtserialport,bus=ports.0,nr=1,chardev=events,name=org.hmmgpu.events",
            "-device",
            "virtserialport,bus=ports.0,nr=2,chardev=stdout,name=org.hmmgpu.stdout",
            "-device",
            "virtserialport,bus=ports.0,nr=3,chardev=stderr,name=org.hmmgpu.stderr",
            "-device",
            "virtserialport,bus=ports.0,nr=4,chardev=stdin,name=org.hmmgpu.stdin",
        ];
        let arguments = machine().arguments();
        assert_eq!(arguments[..expected.len()], expected);
        let rest = &arguments[expected.len()..];
        assert_eq!(rest.len(), 2, "the device and nothing else: {rest:?}");
        assert_eq!(rest[0], "-device");
        let device: serde_json::Value = serde_json::from_str(&rest[1]).expect("JSON");
        assert_eq!(device["driver"], "vfio-user-pci");
        assert_eq!(device["socket"]["path"], "/vm/gpu");
    }

    #[test]
    fn each_gpu_is_attached_by_its_own_socket() {
        let device_sockets = vec!["/vm/gpu0/socket".into(), "/vm/gpu1/socket".into()];
        let arguments = Machine {
            device_sockets,
            ..machine()
        }
        .arguments();
        let sockets: Vec<_> = values(&arguments, "-device")
            .into_iter()
            .filter_map(|value| serde_json::from_str::<serde_json::Value>(value).ok())
            .filter(|device| device["driver"] == "vfio-user-pci")
            .map(|device| device["socket"]["path"].clone())
            .collect();
        assert_eq!(sockets, ["/vm/gpu0/socket", "/vm/gpu1/socket"]);
    }

    #[test]
    fn pluggable_gpus_have_ports_and_names() {
        let arguments = Machine {
            pluggable: true,
            phys_bits: Some(36),
            ..machine()
        }
        .arguments();
        let devices = values(&arguments, "-device");
        let port = devices
            .iter()
            .position(|d| *d == "pcie-root-port,id=port0,chassis=1");
        let gpu = devices[port.expect("a port") + 1];
        let gpu: serde_json::Value = serde_json::from_str(gpu).expect("JSON");
        assert_eq!(gpu, gpu_device(Path::new("/vm/gpu"), 0, true));
        assert_eq!((&gpu["id"], &gpu["bus"]), (&"gpu0".into(), &"port0".into()));
        assert_eq!(
            values(&arguments, "-cpu"),
            ["max,erms=off,fsrm=off,phys-bits=36"]
        );
        let plain = gpu_device(Path::new("/vm/gpu"), 0, false);
        assert!(plain.get("id").is_none() && plain.get("bus").is_none());
    }

    #[test]
    fn no_network_device() {
        let arguments = machine().arguments();
        assert!(
            arguments.iter().all(|argument| !argument.contains("net")),
            "{arguments:?}"
        );
    }

    #[test]
    fn kvm_uses_the_host_processor() {
        let arguments = Machine {
            accel: Accel::Kvm,
            ..machine()
        }
        .arguments();
        assert_eq!(values(&arguments, "-accel"), ["kvm"]);
        assert_eq!(values(&arguments, "-cpu"), ["host"]);
    }

    #[test]
    fn an_interactive_job_has_a_console() {
        let sockets = Sockets::in_folder(Path::new("/vm"), true);
        let arguments = Machine {
            sockets,
            ..machine()
        }
        .arguments();
        assert!(values(&arguments, "-chardev").contains(&"socket,id=terminal,path=/vm/terminal"));
        assert!(
            values(&arguments, "-device")
                .contains(&"virtconsole,bus=ports.0,nr=0,chardev=terminal")
        );
    }

    #[test]
    fn more_devices_come_last() {
        let devices = vec!["virtio-rng-pci".to_owned(), "edu,addr=5".to_owned()];
        let arguments = Machine {
            devices,
            ..machine()
        }
        .arguments();
        assert_eq!(
            values(&arguments, "-device")[6..],
            ["virtio-rng-pci", "edu,addr=5"]
        );
    }

    #[test]
    fn commas_in_paths_are_escaped() {
        let sockets = Sockets::in_folder(Path::new("/a,b"), false);
        let arguments = Machine {
            sockets,
            ..machine()
        }
        .arguments();
        assert_eq!(
            values(&arguments, "-chardev")[0],
            "socket,id=qmp,path=/a,,b/qmp"
        );
    }

    #[test]
    fn zeroing_is_switched_off_under_tcg_only_and_can_be_overridden() {
        let words = |accel, zeroing, added: &[&str]| {
            kernel_args(accel, zeroing, || None, added.iter().copied())
                .split_off(BASE_KERNEL_ARGS.len())
        };
        assert_eq!(words(Accel::Tcg, false, &[]), ["init_on_alloc=0"]);
        assert_eq!(words(Accel::Tcg, true, &[]), Vec::<String>::new());
        assert_eq!(words(Accel::Kvm, false, &[]), Vec::<String>::new());
        assert_eq!(
            words(Accel::Tcg, false, &["init_on_alloc=1"]),
            ["init_on_alloc=1"]
        );
        assert_eq!(
            words(Accel::Kvm, true, &["quiet", "a=1", "a=2"]),
            ["quiet", "a=2"]
        );
        let consoles = kernel_args(Accel::Tcg, true, || None, ["console=tty0", "loglevel=8"]);
        assert_eq!(
            consoles,
            [
                "console=ttyS0",
                "panic=-1",
                "oops=panic",
                "no_timer_check",
                "console=tty0",
                "loglevel=8"
            ]
        );
    }

    #[test]
    fn the_rate_of_the_counter_is_told_under_tcg_only_and_can_be_overridden() {
        let words = |accel, khz, added: &[&str]| {
            kernel_args(accel, true, khz, added.iter().copied()).split_off(BASE_KERNEL_ARGS.len())
        };
        let known = || Some(2_000_000);
        assert_eq!(words(Accel::Tcg, known, &[]), ["tsc_early_khz=2000000"]);
        let other = ["tsc_early_khz=1"];
        assert_eq!(words(Accel::Tcg, known, &other), other);
        let not_asked = || panic!("KVM's guests know it");
        assert_eq!(words(Accel::Kvm, not_asked, &[]), Vec::<String>::new());
    }

    #[test]
    fn a_debug_kernel_alone_has_four_levels_of_page_tables() {
        let of = |kernel: &str| needed_by(Some(&kernel.parse().expect("a kernel")));
        assert_eq!(of("debug"), ["no5lvl"]);
        assert!(of("debian:7.3").is_empty());
        assert!(needed_by(None).is_empty());
    }

    #[test]
    fn shell_words_are_quoted_where_needed() {
        let words: Vec<String> = ["-m", "2G", "{\"a\":1}", "it's", ""]
            .iter()
            .map(|word| (*word).into())
            .collect();
        assert_eq!(shell_words(&words), r#"-m 2G '{"a":1}' 'it'\''s' ''"#);
    }
}
