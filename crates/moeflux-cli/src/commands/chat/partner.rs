//! With whom one talks: a model of this process, or that of a server.

use crate::conversation::Conversation;
use crate::failure::Failure;
use crate::output;
use crate::remote::RemoteConversation;
use crate::session_file::Talk;

/// What came of a prompt.
pub struct Said {
    /// The figures of the answer.
    pub summary: String,
    /// Whether the user stopped it.
    pub stopped: bool,
}

/// A conversation with somebody.
pub trait Partner {
    /// Who it is.
    fn name(&self) -> String;

    /// Says `prompt` and shows the answer.
    fn say(&mut self, prompt: &str) -> Result<Said, Failure>;

    /// Forgets what was said.
    fn reset(&mut self);

    /// What was said, and the state that holds it; empty where that is not here.
    fn saved(&self) -> Result<(&Talk, Vec<u8>), Failure>;

    /// Goes on with what was saved, or says why it cannot.
    fn restore(&mut self, talk: Talk, state: &[u8]) -> Result<(), String>;

    /// Tokens used, and the most that can be.
    fn tokens(&self) -> (u64, u64);
}

/// A model of this process.
pub struct Local<'m> {
    pub name: String,
    pub conversation: Conversation<'m>,
}

impl Partner for Local<'_> {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn say(&mut self, prompt: &str) -> Result<Said, Failure> {
        let answer = self.conversation.say(prompt, &mut output::write)?;
        Ok(Said {
            summary: self.conversation.summary(&answer).text(),
            stopped: answer.end.is_none(),
        })
    }

    fn reset(&mut self) {
        self.conversation.reset();
    }

    fn saved(&self) -> Result<(&Talk, Vec<u8>), Failure> {
        Ok((self.conversation.talk(), self.conversation.state()?))
    }

    fn restore(&mut self, talk: Talk, state: &[u8]) -> Result<(), String> {
        let restored = self.conversation.restore(talk, state);
        restored.map_err(|error| error.to_string())
    }

    fn tokens(&self) -> (u64, u64) {
        let (used, most) = self.conversation.tokens();
        (used as u64, most as u64)
    }
}

impl Partner for RemoteConversation {
    fn name(&self) -> String {
        self.place()
    }

    fn say(&mut self, prompt: &str) -> Result<Said, Failure> {
        let answer = RemoteConversation::say(self, prompt, &mut output::write)?;
        Ok(Said {
            summary: answer.summary(),
            stopped: answer.stopped,
        })
    }

    fn reset(&mut self) {
        RemoteConversation::reset(self);
    }

    fn saved(&self) -> Result<(&Talk, Vec<u8>), Failure> {
        Ok((self.talk(), Vec::new()))
    }

    fn restore(&mut self, talk: Talk, _: &[u8]) -> Result<(), String> {
        RemoteConversation::restore(self, talk)
    }

    fn tokens(&self) -> (u64, u64) {
        RemoteConversation::tokens(self)
    }
}
