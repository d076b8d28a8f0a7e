// Words that say nothing about what a question is about. They are left out of searches.

const ENGLISH =
  'a about after again all also am an and any anybody anyone anything are aren as at be because been before being but by can cannot could couldn d did didn do does doesn doing don done else ever every for from get gets getting give given gives go going gonna got had has hasn have haven having he hello help her here hey hi him his how however i if in instead into is isn it its just kind know let like ll m made make makes many may maybe me might mine more most much must my need needs no not now of off on once one only or other our out over own per please possible re s same shall she should shouldn so some somebody someone something sort still such sure t tell than thank thanks that the their them then there these they thing things this those through to too try trying under until up upon us use used using ve very via want wants was wasn way ways we were weren what when where which while who whom whose why will with within without won would wouldn yes yet you your'

export const stopWords: ReadonlySet<string> = new Set(ENGLISH.split(' '))
