import { get } from './api.js'
import { form, h, interval, loader, number, replace, select, share, table } from './dom.js'
import { called, questions, stop } from './evaluation.js'
import { go } from './router.js'
import { runs } from './state.js'

const MEASURES = { accuracy: 'greedy', accuracy_mmau: "greedy, by MMAU's rule", accuracy_sampled: 'sampled' }
const SHOWN = 50

export function render (box, parameters) {
  const heading = [h('h1', {}, 'Compare'), h('p', {}, 'Two evaluations of the same questions, question by question.')]

  const load = loader(box, async () => {
    const lists = await Promise.all(runs.map(async run => [run.name, Object.keys(await get('evaluations', { run: run.name }))]))
    const all = lists.flatMap(([run, names]) => names.map(name => [JSON.stringify([run, name]), runs.length > 1 ? `${run}: ${called(name)}` : called(name)]))
    if (all.length < 2) return { all }
    const has = value => all.some(([one]) => one === value)
    const fallback = name => all.find(([one]) => JSON.parse(one)[1] === name)?.[0]
    const first = has(parameters.first) ? parameters.first : fallback('base') ?? all[0][0]
    const second = has(parameters.second) ? parameters.second : fallback('trained') ?? all[1][0]
    const [firstRun, firstName] = JSON.parse(first)
    const [secondRun, secondName] = JSON.parse(second)
    const asked = { first_run: firstRun, first: firstName, second_run: secondRun, second: secondName }
    try {
      return { all, first, second, secondRun, told: await get('compare', asked) }
    } catch (refused) {
      return { all, first, second, refused }
    }
  }, ({ all, first, second, secondRun, told, refused }) => {
    stop()
    if (all.length < 2) {
      replace(box, heading, h('p', {}, 'There are no two evaluations to compare yet.'))
      return
    }
    const controls = form(
      select('First', all, first, value => go('compare', { first: value, second })),
      select('Second', all, second, value => go('compare', { first, second: value })))
    if (refused !== undefined) {
      replace(box, heading, controls, h('p', { role: 'alert' }, refused.message))
      return
    }
    const { measures } = told.figures
    replace(box, heading, controls,
      h('p', { class: 'verdict' }, verdict(measures.accuracy)),
      table('Accuracy of both', ['measure', 'first', 'second', 'difference', 'only the first is right', 'only the second', 'p (McNemar)'],
        Object.entries(measures).map(([name, one]) => [
          MEASURES[name] ?? name, share(one.a), share(one.b), share(one.difference) + interval(one.difference_interval),
          number(one.only_a), number(one.only_b), one.p_value === undefined ? '–' : number(one.p_value)])),
      measures.accuracy && table('By task, greedy', ['task', 'questions', 'first', 'second', 'difference'],
        Object.entries(measures.accuracy.by_task ?? {}).map(([name, one]) => [
          name, number(one.questions), share(one.a), share(one.b), share(one.difference) + interval(one.difference_interval)])),
      part('Gained', 'right now, wrong before', told.flips.gained), part('Lost', 'wrong now, right before', told.flips.lost))

    function part (title, what, rows) {
      return h('section', { 'aria-label': title }, h('h2', {}, `${title}: ${number(rows.length)} ${what}`),
        rows.length > SHOWN && h('p', { class: 'note' }, `the first ${SHOWN}`),
        questions(rows.slice(0, SHOWN), secondRun))
    }
  })

  return { ready: load(), leave: stop }
}

function verdict (figures) {
  if (!figures) return ''
  const [low, high] = figures.difference_interval
  const points = `${(100 * figures.difference).toFixed(1)} points [${(100 * low).toFixed(1)}, ${(100 * high).toFixed(1)}]`
  if (low > 0) return `Greedily, the second answers better: ${points}.`
  if (high < 0) return `Greedily, the second answers worse: ${points}.`
  return `Greedily, no difference is shown: ${points}.`
}
