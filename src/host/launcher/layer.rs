//! Which layers are put on: all that a host has. A test leaves one out to see that it was the one that held.

use crate::model::Layer;

/// Those that are put on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layers(u32);

/// Names of layers to leave out, with commas between them; in debug builds only.
#[cfg(debug_assertions)]
const LEFT_OUT: &str = "QHERD_TEST_WITHOUT_LAYERS";

impl Layers {
    /// All of them.
    #[cfg(not(debug_assertions))]
    pub fn in_force() -> Self {
        Self(u32::MAX)
    }

    /// All but those that a test wants to see the absence of.
    #[cfg(debug_assertions)]
    pub fn in_force() -> Self {
        Self::without(&std::env::var(LEFT_OUT).unwrap_or_default())
    }

    #[cfg(any(debug_assertions, test))]
    fn without(names: &str) -> Self {
        let left_out = Layer::ALL.iter().filter(|layer| names.split(',').any(|name| name == layer.name()));
        Self(left_out.fold(u32::MAX, |all, layer| all & !(1 << *layer as u32)))
    }

    pub fn includes(self, layer: Layer) -> bool {
        self.0 & (1 << layer as u32) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_leaves_out_what_it_names_and_nothing_else() {
        let layers = Layers::without("filter,limits,of-another-time");
        let left: Vec<&str> =
            Layer::ALL.into_iter().filter(|layer| !layers.includes(*layer)).map(Layer::name).collect();
        assert_eq!(left, ["limits", "filter"]);
        assert!(Layer::ALL.into_iter().all(|layer| Layers::without("").includes(layer)));
    }
}
