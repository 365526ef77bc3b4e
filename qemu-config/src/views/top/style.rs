//! Colours, where they are wanted; without them, what matters is told by glyphs and words.

use hmmgpu_telemetry::snapshot::{Direction, EngineState};
use ratatui::style::{Color, Modifier, Style};

use super::map::Kind;

/// Colours of sixteen, so that they are the user's own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Palette {
    /// Colours may be used.
    pub(crate) colours: bool,
}

impl Palette {
    fn colour(self, colour: Color) -> Style {
        if self.colours {
            Style::new().fg(colour)
        } else {
            Style::new()
        }
    }

    /// Memory of a kind.
    pub(crate) fn kind(self, kind: Kind) -> Style {
        match kind {
            Kind::Free => self.quiet(),
            Kind::Small => self.colour(Color::LightYellow),
            Kind::Middle => self.colour(Color::LightGreen),
            Kind::Large => self.colour(Color::LightBlue),
            Kind::Split => self.colour(Color::LightMagenta),
        }
    }

    /// What goes in a direction.
    pub(crate) fn direction(self, direction: Direction) -> Style {
        match direction {
            Direction::SysToDev => self.colour(Color::LightCyan),
            Direction::DevToSys => self.colour(Color::LightYellow),
            Direction::DevToDev | Direction::SysToSys => Style::new(),
        }
    }

    /// An engine.
    pub(crate) fn engine(self, state: EngineState) -> Style {
        match state {
            EngineState::Busy => self.colour(Color::LightGreen),
            EngineState::Polling => Style::new(),
            EngineState::Sleeping => self.quiet(),
            EngineState::Faulted => self.colour(Color::LightYellow),
            EngineState::Stopped => self.bad(),
        }
    }

    /// A bar of how much is used.
    pub(crate) fn bar(self) -> Style {
        self.colour(Color::LightGreen)
    }

    /// What is there to read when wanted.
    pub(crate) fn quiet(self) -> Style {
        if self.colours {
            Style::new().fg(Color::DarkGray)
        } else {
            Style::new().add_modifier(Modifier::DIM)
        }
    }

    /// A heading.
    pub(crate) fn heading(self) -> Style {
        self.colour(Color::LightCyan).add_modifier(Modifier::BOLD)
    }

    /// What should not be.
    pub(crate) fn bad(self) -> Style {
        self.colour(Color::LightRed).add_modifier(Modifier::BOLD)
    }

    /// The first line.
    pub(crate) fn title(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED | Modifier::BOLD)
    }
}
