//! Finding a model by name and opening what a command needs of it.

use std::env;
use std::path::{Path, PathBuf};

use moeflux::text::{ChatTemplate, GenerationConfig, TextError, TextFiles, Tokenizer};
use moeflux::{Engine, EngineOptions};

use crate::args::ModelArgs;
use crate::failure::Failure;
use crate::output;

/// An opened model with its text files.
pub struct Model {
    /// Its directory or GGUF file.
    pub dir: PathBuf,
    pub engine: Engine,
    pub tokenizer: Tokenizer,
    /// `None` if the model has none.
    pub template: Option<ChatTemplate>,
    pub generation: GenerationConfig,
}

impl Model {
    /// Opens the model that the flags name. The small files come first: their errors are quick.
    pub fn open(args: &ModelArgs) -> Result<Self, Failure> {
        let dir = find(&args.model)?;
        // What keeps the weights from being opened is more to the point than a missing tokenizer.
        moeflux::inspect(&dir)?;
        let files = TextFiles::open(&dir)?;
        let tokenizer = files.tokenizer()?;
        let template = match files.chat_template() {
            Ok(template) => Some(template),
            Err(TextError::NoTemplate { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let generation = files.generation_config(&tokenizer)?;
        let options = EngineOptions {
            warm_start: !args.no_warm,
            ..args.options()?
        };
        let engine = open_with(&dir, &options)?;
        Ok(Self {
            dir,
            engine,
            tokenizer,
            template,
            generation,
        })
    }
}

/// The name of a model's file or directory.
pub fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

/// Opens the engine alone, without what earlier processes know.
pub fn open_engine(dir: &Path, args: &ModelArgs) -> Result<Engine, Failure> {
    open_with(dir, &args.options()?)
}

/// Opens the engine, showing that it takes time if it does.
fn open_with(dir: &Path, options: &EngineOptions) -> Result<Engine, Failure> {
    let engine = output::with_spinner("loading the model", || Engine::open(dir, options))?;
    engine.notes().iter().for_each(|note| output::note(note));
    Ok(engine)
}

/// The directory or GGUF file of a model given by path or name.
pub fn find(model: &str) -> Result<PathBuf, Failure> {
    let given = Path::new(model);
    if given.exists() {
        return Ok(moeflux::model_path(given)?);
    }
    let is_name = !model.is_empty() && given.components().count() == 1 && !model.starts_with('.');
    if !is_name {
        let problem =
            "no such model; give a directory that holds a config.json, or a GGUF file".into();
        return Err(Failure::Input {
            path: given.into(),
            problem,
        });
    }
    let mut folders: Vec<PathBuf> = Vec::new();
    folders.extend(env::var_os("MOEFLUX_MODELS").map(PathBuf::from));
    folders.push("models".into());
    if let Ok(program) = env::current_exe() {
        folders.extend(
            program
                .ancestors()
                .skip(1)
                .map(|folder| folder.join("models")),
        );
    }
    let found = folders
        .iter()
        .map(|folder| folder.join(model))
        .find(|path| path.exists());
    let found = found.ok_or_else(|| {
        let searched: Vec<String> = folders.iter().map(|f| f.display().to_string()).collect();
        let problem = format!(
            "no model of that name in {}; give its directory or GGUF file, or set MOEFLUX_MODELS",
            searched.join(", ")
        );
        Failure::Input {
            path: given.into(),
            problem,
        }
    })?;
    Ok(moeflux::model_path(&found)?)
}
