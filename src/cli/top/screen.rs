//! What `top` has on the screen: rows in an order, of which some are in sight, each with how it went lately.

use std::collections::{HashMap, VecDeque};

use ratatui::{
    Frame,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
    layout::{Constraint, Layout},
    style::{Color, Modifier, Style},
    text::Line,
    widgets::{Row, Table, TableState},
};

use super::super::{
    columns::Used,
    sizes::{written_mib, written_seconds},
};
use crate::{api::kvm::bodies::Performance, api::kvm::plain, model::Status};

/// Looks that are remembered of each VM.
const REMEMBERED: usize = 20;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Cpu,
    Memory,
    Io,
    Name,
}

#[derive(PartialEq, Eq)]
pub enum Then {
    Stay,
    Leave,
}

pub struct Screen {
    at: String,
    rows: Vec<Used>,
    /// By id: percent of the CPU, and I/O operations.
    lately: HashMap<String, (VecDeque<f64>, VecDeque<f64>)>,
    order: Order,
    state: TableState,
}

impl Screen {
    pub fn new(at: String) -> Self {
        let state = TableState::default().with_selected(Some(0));
        Self { at, rows: Vec::new(), lately: HashMap::new(), order: Order::Cpu, state }
    }

    /// What was seen now.
    pub fn take(&mut self, rows: Vec<Used>) {
        let mut before = std::mem::take(&mut self.lately);
        for row in &rows {
            let (mut cpu, mut io) = before.remove(&row.vm.id).unwrap_or_default();
            remember(&mut cpu, cpu_of(row));
            remember(&mut io, io_of(row) as f64);
            self.lately.insert(row.vm.id.clone(), (cpu, io));
        }
        self.rows = rows;
        self.sort();
    }

    fn sort(&mut self) {
        match self.order {
            Order::Cpu => self.rows.sort_by(|a, b| cpu_of(b).total_cmp(&cpu_of(a))),
            Order::Memory => self.rows.sort_by_key(|row| std::cmp::Reverse(memory_of(row))),
            Order::Io => self.rows.sort_by_key(|row| std::cmp::Reverse(io_of(row))),
            Order::Name => self.rows.sort_by(|a, b| a.vm.name.cmp(&b.vm.name)),
        }
        // Those that do not run come last, whatever the order.
        self.rows.sort_by_key(|row| row.performance.is_none());
    }

    pub fn press(&mut self, key: KeyEvent) -> Then {
        let page = 10;
        let last = self.rows.len().saturating_sub(1);
        let at = self.state.selected().unwrap_or_default();
        let order = match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Then::Leave,
            KeyCode::Char('q') | KeyCode::Esc => return Then::Leave,
            KeyCode::Char('c') => Some(Order::Cpu),
            KeyCode::Char('m') => Some(Order::Memory),
            KeyCode::Char('i') => Some(Order::Io),
            KeyCode::Char('n') => Some(Order::Name),
            _ => None,
        };
        let to = match key.code {
            KeyCode::Up | KeyCode::Char('k') => at.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => at + 1,
            KeyCode::PageUp => at.saturating_sub(page),
            KeyCode::PageDown => at + page,
            KeyCode::Home => 0,
            KeyCode::End => last,
            _ => at,
        };
        self.state.select(Some(to.min(last)));
        if let Some(order) = order {
            self.order = order;
            self.sort();
        }
        Then::Stay
    }

    pub fn draw(&mut self, frame: &mut Frame) {
        let [head, table, foot] =
            Layout::vertical([Constraint::Length(1), Constraint::Fill(1), Constraint::Length(1)]).areas(frame.area());
        let running = self.rows.iter().filter(|row| row.performance.is_some()).count();
        let memory: u64 = self.rows.iter().map(memory_of).sum();
        let text = format!("{}: {} VMs, {running} running, {} in use", self.at, self.rows.len(), written_mib(memory));
        frame.render_widget(Line::from(plain(&text)).style(Modifier::BOLD), head);
        let keys = "q leaves   order: c CPU  m memory  i I/O  n name   arrows, PgUp and PgDn move";
        frame.render_widget(Line::from(keys).style(colour(Color::DarkGray)), foot);
        let order = self.order;
        let title = |text: &'static str, of: Order| if of == order { format!("{text}*") } else { text.to_owned() };
        let header = [
            title("NAME", Order::Name),
            "STATUS".to_owned(),
            title("CPU", Order::Cpu),
            String::new(),
            title("MEMORY", Order::Memory),
            title("IO/S", Order::Io),
            String::new(),
            "PACKETS/S".to_owned(),
            "UPTIME".to_owned(),
        ];
        let rows: Vec<Row> = self.rows.iter().map(|row| self.row(row)).collect();
        let widths = [
            Constraint::Fill(1),
            Constraint::Length(12),
            Constraint::Length(6),
            Constraint::Length(REMEMBERED as u16),
            Constraint::Length(8),
            Constraint::Length(7),
            Constraint::Length(REMEMBERED as u16),
            Constraint::Length(9),
            Constraint::Length(8),
        ];
        let widget = Table::new(rows, widths)
            .header(Row::new(header).style(Modifier::BOLD))
            .row_highlight_style(Modifier::REVERSED);
        frame.render_stateful_widget(widget, table, &mut self.state);
    }

    fn row(&self, row: &Used) -> Row<'static> {
        let figures = row.performance.as_ref();
        let (cpu, io) = match self.lately.get(&row.vm.id) {
            Some((cpu, io)) => (sparkline(cpu, 100.0), sparkline(io, io.iter().copied().fold(1.0, f64::max))),
            None => Default::default(),
        };
        let packets = |p: &Performance| Some(p.network_in_packets? + p.network_out_packets?);
        let text = |text: Option<String>| text.unwrap_or_default();
        let cells = [
            plain(&row.vm.name),
            row.vm.status.as_str().to_owned(),
            text(figures.and_then(|p| p.cpu_usage).map(|usage| format!("{usage:.1}%"))),
            if figures.is_some() { cpu } else { String::new() },
            text(figures.and_then(|p| p.memory_usage).map(written_mib)),
            text(figures.map(|_| io_of(row).to_string())),
            if figures.is_some() { io } else { String::new() },
            text(figures.and_then(packets).map(|packets| packets.to_string())),
            text(figures.and_then(|p| p.uptime).map(written_seconds)),
        ];
        Row::new(cells).style(match row.vm.status {
            Status::Running => Style::new(),
            Status::Crashed | Status::Unresponsive => colour(Color::Red),
            Status::Stopped => colour(Color::DarkGray),
            _ => colour(Color::Yellow),
        })
    }
}

/// Of a person who wants colours.
fn colour(colour: Color) -> Style {
    if super::super::output::is_coloured(&std::io::stdout()) { Style::new().fg(colour) } else { Style::new() }
}

fn remember(values: &mut VecDeque<f64>, value: f64) {
    values.push_back(value);
    if values.len() > REMEMBERED {
        values.pop_front();
    }
}

fn sparkline(values: &VecDeque<f64>, most: f64) -> String {
    let bar = |value: &f64| BARS[((value / most * 8.0) as usize).min(BARS.len() - 1)];
    values.iter().map(bar).collect()
}

fn cpu_of(row: &Used) -> f64 {
    row.performance.as_ref().and_then(|figures| figures.cpu_usage).unwrap_or_default()
}

fn memory_of(row: &Used) -> u64 {
    row.performance.as_ref().and_then(|figures| figures.memory_usage).unwrap_or_default()
}

fn io_of(row: &Used) -> u64 {
    let figures = row.performance.as_ref();
    figures.map_or(0, |f| f.disk_read_iops.unwrap_or_default() + f.disk_write_iops.unwrap_or_default())
}
