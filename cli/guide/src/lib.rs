//! The guide: the tiny model that hob carries with it, as far as it is text. What it says (`text/`), how questions are asked in a
//! thousand ways ([`paraphrase`]), how they make conversations ([`dialogue`]), what it is judged by ([`score`]), and which commands
//! and flags its answers name ([`mention`]), so that the command line can check them.
//!
//! The training itself is the program `hob-guide-train`, behind the feature `train`; README.md beside this tells how it is run.
//!
//! ```
//! let text = hob_guide::text::Text::load()?;
//! let mut dice = hob_guide::dice::Dice::new(1);
//! let dialogue = hob_guide::dialogue::dialogue(&text, &mut dice);
//! println!("{}\n{}", dialogue.turns[0].question, dialogue.turns[0].answer);
//! # Ok::<(), String>(())
//! ```

pub mod dialogue;
pub mod dice;
pub mod mention;
pub mod paraphrase;
pub mod phrase;
pub mod score;
pub mod text;
