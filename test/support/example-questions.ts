// Questions of visitors to the example site, in their own words.

/** Those that its pages answer, each with the page. */
export const answered: Readonly<Record<string, string>> = {
  'How long does the battery last?': '/docs/power.html',
  'Can I charge it in the cold?': '/docs/power.html',
  'Can I hang it in the bathroom?': '/docs/install.html',
  'What does the ring of dashes mean?': '/docs/reading.html',
  'Why is high water later every day?': '/docs/reading.html',
  'How do I show heights in feet?': '/docs/settings.html',
  'How do I stop the bell at night?': '/docs/settings.html',
  'My harbour is not in the list. What can I do?': '/docs/port.html',
  'How accurate are the predictions?': '/docs/port.html',
  'How do I get the tide as JSON?': '/docs/api.html',
  'The hand does not move': '/docs/trouble.html',
  'How do I reset it to factory settings?': '/docs/trouble.html',
  'How long is the warranty?': '/docs/trouble.html',
  'Which Wi-Fi networks work?': '/docs/network.html',
  'What data leaves my home?': '/docs/network.html',
  'What is a neap tide?': '/docs/glossary.html',
  潮時とは何ですか: '/docs/glossary.html',
  'What is in the box?': '/',
}

/** Those that no page has anything about. */
export const unanswered: readonly string[] = [
  'Who won the world cup in 1998?',
  'What is a good recipe for banana bread?',
  'Does it play music from Spotify?',
  'How do I file my taxes?',
  'What is the capital of Mongolia?',
  'Can it show the temperature of my aquarium?',
  'Which phone should I buy for my grandmother?',
  'How do I train a puppy?',
  'Is there a discount for students?',
  'When does the next train to Leeds leave?',
]
