// Measures how well the search finds the pages that answer questions, and which questions a prompt
// refuses: `npm run bench:ask -- FOLDER`, in which get-sites.sh has put the sites. Prints the tables
// of docs/ask.md.
import { type Figures, figuresOf, type Measured, measure } from './measure.ts'
import { type CutPage, cutPages, resized } from './pages.ts'
import { readSites, type SetName, type Site, sets } from './sites.ts'
import { indexOf, type Variant } from './sqlite.ts'

interface CutSite extends Site {
  readonly cut: readonly CutPage[]
}

interface Row extends Variant {
  readonly name: string
  readonly maxChars?: number
}

const PORTER = "porter unicode61 remove_diacritics 2 categories 'L* N* M* Co'"
const rows: readonly Row[] = [
  { name: 'as shipped' },
  { name: 'tokenizer unicode61, without stems', tokenizer: PORTER.replace('porter ', '') },
  { name: 'tokenizer trigram', tokenizer: 'trigram' },
  { name: 'all weights 1', weights: [1, 1, 1, 1, 1] },
  { name: 'title 10, headings 8, path 4', weights: [10, 8, 4, 1, 1] },
  { name: 'title 2, headings 2, path 1', weights: [2, 2, 1, 1, 1] },
  { name: 'passages of 450 characters', maxChars: 450 },
  { name: 'passages of 1,800 characters', maxChars: 1800 },
]
const questionWeights = [0, 1, 2, 4, 8]

const folder = process.argv[2]
if (folder === undefined) throw new Error('use npm run bench:ask -- FOLDER')
const sites: CutSite[] = []
for (const site of readSites(folder)) sites.push({ ...site, cut: await cutPages(site) })

for (const { name, cut } of sites) {
  const passages = cut.reduce((sum, page) => sum + page.passages.length, 0)
  console.log(`${name}: ${cut.length} pages, ${passages} passages`)
}
const inRows = rows.map((row) => ({ row, measured: sites.map((site) => asked(site, row)) }))
table(
  'recall',
  ['', ...recallHeads('plain'), ...recallHeads('other')],
  inRows.map(({ row, measured }) => [row.name, ...recallsOf(measured)]),
)
table(
  'by site, as shipped',
  ['', ...recallHeads('plain'), ...recallHeads('other')],
  sites.map(({ name }, i) => [name, ...recallsOf([inRows[0]!.measured[i]!])]),
)
table(
  'tuned on two sites, measured on the third',
  ['', 'chosen on the other two', 'recall@5', 'as shipped'],
  sites.map(({ name }, i) => crossed(name, i)),
)
table(
  'refusals, as shipped',
  ['', 'refused wrongly', 'related, answered', 'unrelated, answered'],
  (['plain', 'other'] as const).map((set) => refusals(set, figuresIn(inRows[0]!.measured, set))),
)
const [first] = sites as [CutSite]
table(
  `questions written from the pages: ${first.name}`,
  ['weight', ...recallHeads('plain'), ...recallHeads('other'), 'refused wrongly'],
  questionWeights.map((weight) => {
    const measured = [asked(first, { weights: [5, 4, 2, 1, weight] }, true)]
    const refused = figuresIn(measured, 'plain').refused + figuresIn(measured, 'other').refused
    return [String(weight), ...recallsOf(measured), String(refused)]
  }),
)

function asked(site: CutSite, row: Omit<Row, 'name'>, withQuestions = false) {
  const { maxChars } = row
  const pages = maxChars === undefined ? site.cut : site.cut.map((page) => resized(page, maxChars))
  const index = indexOf(pages, row, withQuestions ? site.pageQuestions : {})
  const { origin } = site.cut[0]!.url
  const of = (set: SetName) => measure(index, origin, sets[set][site.name])
  return { plain: of('plain'), other: of('other') }
}

function figuresIn(measured: readonly Record<SetName, Measured>[], set: SetName): Figures {
  return figuresOf(measured.map((site) => site[set]))
}

function recallHeads(set: SetName): string[] {
  return [`${set}: @1`, '@5', '@20', '5 pages']
}

function recallsOf(measured: readonly Record<SetName, Measured>[]): string[] {
  return (['plain', 'other'] as const).flatMap((set) => {
    const { recall, pages } = figuresIn(measured, set)
    return [...recall, pages].map((share) => share.toFixed(2))
  })
}

/** Chooses the variant by both sets of the other sites. */
function crossed(name: string, i: number): string[] {
  const recall = (measured: readonly Record<SetName, Measured>[]) =>
    (figuresIn(measured, 'plain').recall[1] + figuresIn(measured, 'other').recall[1]) / 2
  const byOthers = inRows.toSorted(
    (a, b) => recall(b.measured.toSpliced(i, 1)) - recall(a.measured.toSpliced(i, 1)),
  )
  const { row, measured } = byOthers[0]!
  const shipped = recall([inRows[0]!.measured[i]!])
  return [name, row.name, recall([measured[i]!]).toFixed(2), shipped.toFixed(2)]
}

function refusals(set: SetName, { refused, related, unrelated }: Figures): string[] {
  return [set, `${refused} of 60`, `${related} of 30`, `${unrelated} of 30`]
}

function table(title: string, heads: readonly string[], lines: readonly (readonly string[])[]) {
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`
  const ruler = heads.map(() => '---')
  console.log(`\n${title}\n\n${[heads, ruler, ...lines].map(line).join('\n')}`)
}
