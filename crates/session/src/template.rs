//! Names of channels that every connection is subscribed to.

use fanfare_protocol::{Channel, NameError, escape_segment};

/// The segment that stands for the user.
const SUB: &str = "{sub}";

/// A channel's name in which a segment `{sub}` stands for the user: `user:{sub}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelTemplate(Box<str>);

impl ChannelTemplate {
    /// Checks a template.
    ///
    /// # Errors
    /// Where it is no channel's name with any user in the place of `{sub}`.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let template = Self(text.into());
        // The namespace is literal: it carries the options.
        let namespace = text.split(':').next().unwrap_or_default();
        Channel::parse(namespace)?;
        Channel::parse(&template.fill("x"))?;
        Ok(template)
    }

    /// The template as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The channel's name for a user; `None` where it needs one and there is none. It is not a valid name where the
    /// user's is too long for a segment.
    pub fn name(&self, user: Option<&str>) -> Option<String> {
        match user {
            Some(user) => Some(self.fill(&escape_segment(user))),
            None => (!self.0.split(':').any(|segment| segment == SUB)).then(|| self.0.to_string()),
        }
    }

    fn fill(&self, user: &str) -> String {
        let segments: Vec<&str> =
            self.0.split(':').map(|segment| if segment == SUB { user } else { segment }).collect();
        segments.join(":")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_takes_the_place_of_its_segment() {
        let own = ChannelTemplate::parse("user:{sub}").unwrap();
        assert_eq!(own.name(Some("alice")).as_deref(), Some("user:alice"));
        assert_eq!(own.name(Some("a.b=c:d")).as_deref(), Some("user:a=2Eb=3Dc=3Ad"));
        assert_eq!(own.name(None), None);
        let all = ChannelTemplate::parse("news:all").unwrap();
        assert_eq!(all.name(Some("alice")).as_deref(), Some("news:all"));
        assert_eq!(all.name(None).as_deref(), Some("news:all"));
        assert_eq!(ChannelTemplate::parse("a:{sub}:b").unwrap().name(Some("u")).as_deref(), Some("a:u:b"));
        assert_eq!(own.as_str(), "user:{sub}");
    }

    #[test]
    fn what_is_no_name_with_any_user_is_refused() {
        for text in ["", "{sub}", "{sub}:a", "user:{name}", "user:x{sub}", "user:*", "user:"] {
            assert!(ChannelTemplate::parse(text).is_err(), "{text}");
        }
    }
}
