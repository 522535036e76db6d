//! `moeflux bench`: prefill and decode speed, with the floor that the hardware sets.
//!
//! Tokens are pseudo-random, so that experts are chosen as widely as by any text. The floor is the
//! slowest of these: bytes of weights and state over the memory's measured bandwidth,
//! multiply-adds over the kernels' measured rates, bytes of experts that had to be read over the
//! disk's measured rate, and those that had to be brought to a device over that of the way there.

mod forecast;
mod machine;
mod measure;
mod plan;
mod profile;
mod progress;
mod report;
mod tier;

use std::cell::OnceCell;
use std::path::Path;
use std::time::Instant;

use clap::{Args, ValueEnum};
use moeflux::{Engine, Want};
use serde_json::{Map, Value, json};

use self::forecast::Forecast;
use self::measure::Runner;
use self::plan::{Cache, Test};
use self::profile::Profile;
use self::progress::Progress;
use self::report::Row;
use crate::args::ModelArgs;
use crate::failure::Failure;
use crate::interrupt;
use crate::measure::DiskRate;
use crate::model;
use crate::output;
use crate::predict;

/// Flags of `bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Prompt lengths to measure (pp); 0 for none
    #[arg(
        short,
        long,
        value_delimiter = ',',
        default_value = "128,512",
        value_name = "N,N,..."
    )]
    prompt_tokens: Vec<usize>,
    /// Numbers of tokens to decode (tg); 0 for none
    #[arg(
        short = 'n',
        long,
        value_delimiter = ',',
        default_value = "32",
        value_name = "N,N,..."
    )]
    decode_tokens: Vec<usize>,
    /// Tokens in the context before each test
    #[arg(
        short,
        long,
        value_delimiter = ',',
        default_value = "0",
        value_name = "N,N,..."
    )]
    depth: Vec<usize>,
    /// Repetitions of each test
    #[arg(short, long, default_value_t = 3, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=1000))]
    repetitions: u16,
    /// Numbers of compute threads to measure with, one after another [default: --threads]
    #[arg(short, long, value_delimiter = ',', value_name = "N,N,...",
          conflicts_with = "threads", value_parser = clap::value_parser!(u16).range(1..=1024))]
    thread_counts: Vec<u16>,
    /// Forget cached experts before each repetition, instead of one run to warm up
    #[arg(long)]
    cold: bool,
    /// Also say where the time goes, by kind of operation, in one more repetition
    #[arg(long)]
    profile: bool,
    /// How results are printed
    #[arg(short, long, value_enum, default_value = "table", value_name = "FORM")]
    output: Form,
    /// The same as -o json
    #[arg(long, conflicts_with = "output")]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A table, with what it stands on above
    Table,
    /// A line of names, then a line a test
    Csv,
    /// One object
    Json,
}

/// An engine, and how long it took to be of use.
pub struct Loaded {
    engine: Engine,
    load_seconds: f64,
    /// Loading and one token.
    first_token_seconds: f64,
    /// Whether every expert was in memory before the first test.
    all_resident: bool,
}

/// Everything that was printed, or is to be.
#[derive(Default)]
struct Results {
    model: Vec<(&'static str, Value)>,
    machines: Vec<Value>,
    rows: Vec<Row>,
    profiles: Vec<Profile>,
}

/// Runs the command.
pub fn run(args: &BenchArgs) -> Result<(), Failure> {
    let path = model::find(&args.model.model)?;
    let info = moeflux::inspect(&path)?;
    // A context that cannot be is the engine's to refuse.
    let is_possible = |tokens: &usize| (1..=info.context_tokens).contains(tokens);
    let context = args.model.context.filter(is_possible);
    let context = context.unwrap_or(info.context_tokens);
    let tests = plan::tests(args, context)?;
    if args.thread_counts.len() > 1 && args.model.trace.is_some() {
        let problem = "--trace is for one run; give one number of threads";
        return Err(Failure::Usage(problem.to_owned()));
    }
    let mut counts: Vec<Option<usize>> = Vec::new();
    counts.extend(args.thread_counts.iter().map(|&n| Some(usize::from(n))));
    if counts.is_empty() {
        counts.push(args.model.threads);
    }
    let form = if args.json { Form::Json } else { args.output };
    let bench = Bench {
        args,
        form,
        path: &path,
        guard: interrupt::listen(),
        disk: OnceCell::new(),
    };
    let mut results = Results::default();
    for threads in counts {
        bench.with_threads(threads, &tests, &mut results)?;
    }
    bench.finish(&results)
}

struct Bench<'a> {
    args: &'a BenchArgs,
    form: Form,
    path: &'a Path,
    guard: interrupt::Guard,
    /// Measured when the first test has read from it.
    disk: OnceCell<DiskRate>,
}

impl Bench<'_> {
    /// Runs all tests with so many threads; by default one for each core.
    fn with_threads(
        &self,
        threads: Option<usize>,
        tests: &[Test],
        results: &mut Results,
    ) -> Result<(), Failure> {
        let mut model_args = self.args.model.clone();
        model_args.threads = threads;
        // Measured before the engine takes its memory.
        let mut machine = machine::measure(&model_args)?;
        let loaded = self.load(&model_args)?;
        machine.kernels = machine::kernel_rates(&loaded.engine)?;
        let name = model::name(self.path);
        if self.form == Form::Table {
            let heading = report::heading(&name, &loaded, &machine);
            output::line(&format!("{heading}\n\n{}", report::table_header()))?;
        }
        if results.model.is_empty() {
            results.model = report::model_json(&loaded.engine, &name);
        }
        results
            .machines
            .push(report::machine_json(&loaded, &machine));
        let forecast = self.forecast(&loaded)?;
        let mut session = loaded.engine.session();
        let mut profiles = Vec::new();
        let caches = Cache::all(self.args.cold, loaded.all_resident);
        for (&test, &cache) in tests
            .iter()
            .flat_map(|t| caches.iter().map(move |c| (t, c)))
        {
            // Other programs slow a measurement, nothing speeds it up: the best of several counts.
            machine.raise(&machine::kernel_rates(&loaded.engine)?);
            let runner = Runner {
                engine: &loaded.engine,
                machine: &machine,
                repetitions: usize::from(self.args.repetitions),
                cache,
                profile: self.args.profile,
                guard: &self.guard,
            };
            let mut measured = runner.run(test, &mut session)?;
            profiles.extend(measured.profile.take());
            let disk = match measured.bytes_read {
                0 => None,
                _ => Some(self.disk()?),
            };
            let predicted = forecast
                .as_ref()
                .map(|f| f.rate(&loaded, &machine, &measured));
            let row = Row::new(&name, &loaded, measured, disk, predicted);
            self.print(&row, results.rows.is_empty())?;
            results.rows.push(row);
        }
        if self.form == Form::Table {
            for profile in &profiles {
                output::line(&format!("\n{}", profile.text()))?;
            }
        }
        results.profiles.extend(profiles);
        Ok(())
    }

    /// Opens the engine, computes a token, and reads all experts if they fit.
    fn load(&self, model_args: &ModelArgs) -> Result<Loaded, Failure> {
        let start = Instant::now();
        let engine = model::open_engine(self.path, model_args)?;
        let load_seconds = start.elapsed().as_secs_f64();
        let first = [measure::token(&engine, 0, 0)];
        engine.prefill(&mut engine.session(), &first, Want::Last)?;
        let first_token_seconds = start.elapsed().as_secs_f64();
        let mut all_resident = false;
        if !self.args.cold {
            let mut bar = Progress::new(engine.info().expert_records, "experts");
            let mut before = 0;
            all_resident = engine.warm(&mut |done, _| {
                bar.advance(done - before);
                before = done;
            })?;
        }
        Ok(Loaded {
            engine,
            load_seconds,
            first_token_seconds,
            all_resident,
        })
    }

    /// What `moeflux plan` would say of this engine, if experts have to be read.
    fn forecast(&self, loaded: &Loaded) -> Result<Option<Forecast>, Failure> {
        // A device's speed is not foretold.
        if loaded.all_resident || loaded.engine.stats().tier.is_some() {
            return Ok(None);
        }
        Ok(Some(Forecast {
            decode: predict::measure(&loaded.engine)?,
            disk_rate: self.disk()?.bytes_per_second,
        }))
    }

    fn disk(&self) -> Result<&DiskRate, Failure> {
        if let Some(disk) = self.disk.get() {
            return Ok(disk);
        }
        let disk = crate::measure::disk(self.path, self.args.model.reader)?;
        Ok(self.disk.get_or_init(|| disk))
    }

    /// Prints a row as soon as it is there, where the form allows it.
    fn print(&self, row: &Row, is_first: bool) -> Result<(), Failure> {
        match self.form {
            Form::Table => {
                output::line(&row.text())?;
                row.tier().map_or(Ok(()), output::line)
            }
            Form::Csv if is_first => output::line(&format!("{}\n{}", row.csv_header(), row.csv())),
            Form::Csv => output::line(&row.csv()),
            Form::Json => Ok(()),
        }
    }

    /// Prints what comes at the end.
    fn finish(&self, results: &Results) -> Result<(), Failure> {
        match self.form {
            Form::Table => match self.disk.get() {
                Some(disk) => output::line(&format!(
                    "\ndisk {:.2} GB/s by {}",
                    disk.bytes_per_second * 1e-9,
                    disk.reader
                )),
                None => Ok(()),
            },
            Form::Csv => {
                for profile in &results.profiles {
                    output::note(&format!("\n{}", profile.text()));
                }
                Ok(())
            }
            Form::Json => output::json(&self.json(results)),
        }
    }

    fn json(&self, results: &Results) -> Value {
        let first = results.machines.first().unwrap_or(&Value::Null);
        let disk = self
            .disk
            .get()
            .map(|disk| json!({"bytes_per_second": disk.bytes_per_second, "reader": disk.reader}));
        let mut object = Map::new();
        let model = results.model.iter();
        object.extend(model.map(|(name, value)| ((*name).to_owned(), value.clone())));
        object.extend([
            ("cold".to_owned(), json!(self.args.cold)),
            ("load_s".to_owned(), first["load_s"].clone()),
            ("first_token_s".to_owned(), first["first_token_s"].clone()),
            ("machine".to_owned(), json!(results.machines)),
            ("disk".to_owned(), json!(disk)),
        ]);
        let rows: Vec<Value> = results.rows.iter().map(Row::json).collect();
        object.insert("results".to_owned(), json!(rows));
        if self.args.profile {
            let profiles: Vec<Value> = results.profiles.iter().map(Profile::json).collect();
            object.insert("profile".to_owned(), json!(profiles));
        }
        Value::Object(object)
    }
}
