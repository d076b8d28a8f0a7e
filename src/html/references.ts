// Decodes HTML character references (HTML, 13.2.5.72 to 13.2.5.80), once: `&amp;lt;` becomes
// "&lt;". Only the common mathematical names are included, since all of them would be a tenth of
// the Worker's size. An unknown name is left as it is.

/** `#` with hex digits sets the code point; each name takes the next one, `=` repeats the last. */
type Names = string

/** The names that HTML also decodes without a semicolon. */
const BARE: Names =
  '#22 QUOT =quot #26 AMP =amp #3c LT =lt #3e GT =gt #a0 nbsp iexcl cent pound curren yen brvbar ' +
  'sect uml COPY =copy ordf laquo not shy REG =reg macr deg plusmn sup2 sup3 acute micro para ' +
  'middot cedil sup1 ordm raquo frac14 frac12 frac34 iquest Agrave Aacute Acirc Atilde Auml Aring ' +
  'AElig Ccedil Egrave Eacute Ecirc Euml Igrave Iacute Icirc Iuml ETH Ntilde Ograve Oacute Ocirc ' +
  'Otilde Ouml times Oslash Ugrave Uacute Ucirc Uuml Yacute THORN szlig agrave aacute acirc ' +
  'atilde auml aring aelig ccedil egrave eacute ecirc euml igrave iacute icirc iuml eth ntilde ' +
  'ograve oacute ocirc otilde ouml divide oslash ugrave uacute ucirc uuml yacute thorn yuml'

const OTHERS: Names =
  '#9 Tab NewLine #21 excl #23 num dollar percnt #27 apos lpar rpar ast =midast plus comma #2e ' +
  'period sol #3a colon semi #3d equals #3f quest commat #5b lbrack =lsqb bsol rbrack =rsqb Hat ' +
  'lowbar =UnderBar DiacriticalGrave =grave #7b lbrace =lcub verbar =vert =VerticalLine rbrace ' +
  '=rcub #a0 NonBreakingSpace #a8 die =Dot =DoubleDot #ae circledR strns #b1 PlusMinus =pm #b4 ' +
  'DiacriticalAcute #b7 CenterDot =centerdot Cedilla #bd half #c5 angst #f7 div #100 Amacr amacr ' +
  'Abreve abreve Aogon aogon Cacute cacute Ccirc ccirc Cdot cdot Ccaron ccaron Dcaron dcaron ' +
  'Dstrok dstrok Emacr emacr #116 Edot edot Eogon eogon Ecaron ecaron Gcirc gcirc Gbreve gbreve ' +
  'Gdot gdot Gcedil #124 Hcirc hcirc Hstrok hstrok Itilde itilde Imacr imacr #12e Iogon iogon ' +
  'Idot imath =inodot IJlig ijlig Jcirc jcirc Kcedil kcedil kgreen Lacute lacute Lcedil lcedil ' +
  'Lcaron lcaron Lmidot lmidot Lstrok lstrok Nacute nacute Ncedil ncedil Ncaron ncaron napos ENG ' +
  'eng Omacr omacr #150 Odblac odblac OElig oelig Racute racute Rcedil rcedil Rcaron rcaron ' +
  'Sacute sacute Scirc scirc Scedil scedil Scaron scaron Tcedil tcedil Tcaron tcaron Tstrok ' +
  'tstrok Utilde utilde Umacr umacr Ubreve ubreve Uring uring Udblac udblac Uogon uogon Wcirc ' +
  'wcirc Ycirc ycirc Yuml Zacute zacute Zdot zdot Zcaron zcaron #192 fnof #1b5 imped #1f5 gacute ' +
  '#237 jmath #2c6 circ caron =Hacek #2d8 Breve =breve DiacriticalDot =dot ring ogon ' +
  'DiacriticalTilde =tilde dblac =DiacriticalDoubleAcute #311 DownBreve #391 Alpha Beta Gamma ' +
  'Delta Epsilon Zeta Eta Theta Iota Kappa Lambda Mu Nu Xi Omicron Pi Rho #3a3 Sigma Tau Upsilon ' +
  'Phi Chi Psi ohm =Omega #3b1 alpha beta gamma delta epsi =epsilon zeta eta theta iota kappa ' +
  'lambda mu nu xi omicron pi rho sigmaf =sigmav =varsigma sigma tau upsi =upsilon phi chi psi ' +
  'omega #3d1 thetasym =thetav =vartheta Upsi =upsih #3d5 phiv =straightphi =varphi piv =varpi ' +
  '#3dc Gammad digamma =gammad #3f0 kappav =varkappa rhov =varrho #3f5 epsiv =straightepsilon ' +
  '=varepsilon backepsilon =bepsi #401 IOcy DJcy GJcy Jukcy DScy Iukcy YIcy Jsercy LJcy NJcy ' +
  'TSHcy KJcy #40e Ubrcy DZcy Acy Bcy Vcy Gcy Dcy IEcy ZHcy Zcy Icy Jcy Kcy Lcy Mcy Ncy Ocy Pcy ' +
  'Rcy Scy Tcy Ucy Fcy KHcy TScy CHcy SHcy SHCHcy HARDcy Ycy SOFTcy Ecy YUcy YAcy acy bcy vcy gcy ' +
  'dcy iecy zhcy zcy icy jcy kcy lcy mcy ncy ocy pcy rcy scy tcy ucy fcy khcy tscy chcy shcy ' +
  'shchcy hardcy ycy softcy ecy yucy yacy #451 iocy djcy gjcy jukcy dscy iukcy yicy jsercy ljcy ' +
  'njcy tshcy kjcy #45e ubrcy dzcy #2002 ensp emsp emsp13 emsp14 #2007 numsp puncsp thinsp ' +
  '=ThinSpace hairsp =VeryThinSpace NegativeMediumSpace =NegativeThickSpace =NegativeThinSpace ' +
  '=NegativeVeryThinSpace =ZeroWidthSpace zwnj zwj lrm rlm dash =hyphen #2013 ndash mdash horbar ' +
  'Verbar =Vert #2018 lsquo =OpenCurlyQuote CloseCurlyQuote =rsquo =rsquor lsquor =sbquo #201c ' +
  'ldquo =OpenCurlyDoubleQuote CloseCurlyDoubleQuote =rdquo =rdquor bdquo =ldquor #2020 dagger ' +
  'Dagger =ddagger bull =bullet #2025 nldr hellip =mldr #2030 permil pertenk prime Prime tprime ' +
  'backprime =bprime #2039 lsaquo rsaquo #203e oline =OverBar #2041 caret #2043 hybull frasl ' +
  '#204f bsemi #2057 qprime #205f MediumSpace NoBreak af =ApplyFunction InvisibleTimes =it ic ' +
  '=InvisibleComma #20ac euro #20db tdot =TripleDot DotDot #2105 incare #210f hbar #2111 image ' +
  '#2113 ell #2116 numero copysr weierp #211c real #211e rx #2122 trade #2135 alefsym #2153 ' +
  'frac13 frac23 frac15 frac25 frac35 frac45 frac16 frac56 frac18 frac38 frac58 frac78 #2190 larr ' +
  '=leftarrow uarr rarr =rightarrow darr harr =leftrightarrow #21a6 mapsto #21b5 crarr #21d0 lArr ' +
  '=Leftarrow uArr rArr =Rightarrow dArr hArr #2200 forall #2202 part exist #2205 empty =emptyset ' +
  '#2207 nabla in =isin notin =notinva #220b ni notni =notniva #220f prod #2211 sum minus mp ' +
  '#2217 lowast #221a radic #221d prop =propto infin #2220 ang =angle #2225 parallel #2227 and or ' +
  'cap cup int #2234 there4 #223c sim #2245 cong #2248 approx =asymp #2260 ne equiv #2264 le =leq ' +
  'ge =geq #226a ll gg #2273 gtrsim #2277 gtrless #2282 sub =subset sup =supset nsub #2286 sube ' +
  'supe #2295 oplus #2297 otimes #22a0 timesb #22a5 perp #22b4 ltrie #22c5 sdot #22c7 ' +
  'divideontimes #22c9 ltimes #22cb lthree #22d6 ltdot gtdot =gtrdot #22db gtreqless #22f6 ' +
  'notinvc notinvb #22fd notnivc notnivb #2308 lceil rceil lfloor rfloor #2315 telrec target ' +
  '#2423 blank #2588 block #25a1 squ =square #25aa squf #25b4 utrif utri #25b8 rtrif rtri #25be ' +
  'dtrif dtri #25c2 ltrif ltri #25ca loz cir #25ef xcirc #2605 bigstar =starf star #260e phone ' +
  '#2640 female #2642 male #2660 spades #2663 clubs #2665 hearts diams #266d flat natural sharp ' +
  '#2713 check =checkmark #2717 cross #2720 malt #2736 sext #27e8 lang rang #2976 ltlarr #2978 ' +
  'gtrarr #2995 gtlPar ltrPar #2a30 timesd timesbar #2a79 ltcir gtcir ltquest gtquest #2a86 ' +
  'gtrapprox #2a8c gtreqqless #2aa6 ltcc gtcc'

/** The longest name in BARE. */
const MAX_BARE_CHARS = 6

/**
 * Names that stand for two characters. Together, the lists hold every name that begins with one in
 * BARE, so that none of these is read as the shorter name.
 */
const PAIRS: readonly [string, string][] = [
  ['notindot', '\u22f5\u0338'],
  ['notinE', '\u22f9\u0338'],
]

type Table = ReadonlyMap<string, string>

let tables: { readonly bare: Table; readonly all: Table } | null = null

function readTables() {
  const bare = new Map(readNames(BARE))
  return { bare, all: new Map([...bare, ...readNames(OTHERS), ...PAIRS]) }
}

function* readNames(names: Names): Generator<[string, string]> {
  let code = 0
  for (const each of names.split(' ')) {
    if (each.startsWith('#')) code = Number.parseInt(each.slice(1), 16) - 1
    else if (each.startsWith('=')) yield [each.slice(1), String.fromCodePoint(code)]
    else yield [each, String.fromCodePoint(++code)]
  }
}

const REFERENCE = /&(?:#(\d+);?|#[xX]([\da-fA-F]+);?|([A-Za-z][A-Za-z\d]*)(;?))/g

/**
 * Decodes the references in text.
 *
 * @param isAttribute whether it is an attribute's value, where "&copy=" and "&copyright" stay
 */
export function decodeReferences(source: string, isAttribute = false): string {
  if (!source.includes('&')) return source
  tables ??= readTables()
  const { bare, all } = tables
  const decoded = (
    whole: string,
    decimal?: string,
    hex?: string,
    name = '',
    semicolon = '',
    at = 0,
  ): string => {
    if (decimal !== undefined) return characterOf(Number(decimal))
    if (hex !== undefined) return characterOf(Number.parseInt(hex, 16))
    const named = semicolon === '' ? undefined : all.get(name)
    if (named !== undefined) return named
    for (let length = Math.min(name.length, MAX_BARE_CHARS); length > 1; length -= 1) {
      const character = bare.get(name.slice(0, length))
      if (character === undefined) continue
      const next = source[at + 1 + length] ?? ''
      return isAttribute && /[=\da-z]/i.test(next) ? whole : character + whole.slice(length + 1)
    }
    return whole
  }
  return source.replace(REFERENCE, decoded)
}

/** 0x80 to 0x9F are read as windows-1252 (HTML, 13.2.5.80). */
function characterOf(code: number): string {
  if (code >= 0x80 && code < 0xa0) {
    return new TextDecoder('windows-1252').decode(Uint8Array.of(code))
  }
  const isCharacter = code > 0 && code <= 0x10ffff && !(code >= 0xd800 && code < 0xe000)
  return isCharacter ? String.fromCodePoint(code) : '\ufffd'
}
