import { get } from './api.js'
import { form, h, interval, later, loader, number, parts, replace, select, share, table } from './dom.js'
import { player } from './player.js'
import { address, go } from './router.js'
import { runChoice, theRun } from './state.js'

const KINDS = [
  ['all', 'all questions'], ['wrong', 'wrong'], ['right', 'right'], ['outside', 'no choice named'], ['unusable', 'unusable clips']
]
const GROUPS = [['by_task', 'task'], ['by_difficulty', 'difficulty'], ['by_sub_category', 'sub-category']]
const COUNT = 25

let playing = [] // of the page's recordings, those that were listened to

export function render (box, parameters) {
  const run = theRun(parameters)
  replace(box, h('h1', {}, 'Evaluation'))
  if (run === undefined) {
    box.append(h('p', {}, 'There is no run.'))
    return {}
  }

  const load = loader(box, async () => {
    const all = await get('evaluations', { run: run.name })
    const names = Object.keys(all)
    const asked = { kind: 'all', search: '', task: '', offset: '0', ...parameters, run: run.name }
    asked.name = names.includes(asked.name) ? asked.name : names.includes('trained') ? 'trained' : names.at(-1)
    return { all, names, asked, told: asked.name === undefined ? null : await get('evaluation', { ...asked, count: String(COUNT) }) }
  }, ({ all, names, asked, told }) => {
    const choice = runChoice(run, value => go('evaluation', { run: value }))
    if (told === null) {
      replace(box, h('h1', {}, 'Evaluation'), form(choice), h('p', {}, 'Nothing has been evaluated yet.'))
      return
    }
    stop()
    const { figures } = told
    const change = changes => go('evaluation', { ...asked, offset: '0', ...changes })
    const tasks = Object.keys(figures.by_task ?? {}).filter(Boolean)
    replace(box,
      h('h1', {}, 'Evaluation'),
      form(choice,
        select('Evaluation', names.map(name => [name, called(name)]), asked.name, value => change({ name: value }))),
      table('All evaluations of the run', ['evaluation', 'step', 'questions', 'greedy', 'sampled', 'format', 'a choice named'],
        Object.entries(all).map(([name, one]) => [
          h('a', { href: address('evaluation', { run: run.name, name }), 'aria-current': name === asked.name ? 'true' : null }, called(name)),
          number(one.step), number(one.questions), share(one.accuracy) + interval(one.accuracy_interval),
          share(one.accuracy_sampled) + interval(one.accuracy_sampled_interval), share(one.format_rate), share(one.in_choices)])),
      silence(all),
      h('h2', {}, `${called(asked.name)}: where it is right`),
      h('div', { class: 'tables' }, GROUPS.map(([key, name]) => byGroup(figures[key] ?? {}, name, figures.chance))),
      positions(figures.positions),
      h('h2', {}, 'What is taken for what'),
      confusion(told.confusion),
      h('h2', {}, 'Questions'),
      form(
        select('Show', KINDS, asked.kind, value => change({ kind: value })),
        tasks.length > 1 && select('Task', [['', 'every task'], ...tasks.map(one => [one, one])], asked.task, value => change({ task: value })),
        h('label', {}, 'Search', h('input', {
          type: 'search', id: 'search', value: asked.search, onchange: later(event => change({ search: event.target.value }), 0)
        }))),
      h('p', { class: 'note', role: 'status' }, `${number(told.page.total)} questions`),
      questions(told.page.rows, run.name),
      parts('evaluation', asked, told.page.total, COUNT))
  })

  return {
    ready: load(),
    // What plays is not broken off; the list is made anew with the next evaluation.
    update: async () => playing.some(one => one.playing()) || load(),
    watches: ['evaluations'],
    leave: stop,
    keys: { '/': () => document.getElementById('search')?.focus() }
  }
}

export function stop () {
  playing.forEach(one => one.stop())
  playing = []
}

export function called (name) {
  if (name === 'base') return 'before training'
  if (name === 'trained') return 'after training'
  if (name === 'silent') return 'after training, about silence'
  return name.replace(/^validation_step_/, 'validation at step ')
}

function silence (all) {
  if (!all.silent || !all.trained) return null
  return h('p', {}, `About silence the model is right in ${share(all.silent.accuracy)}${interval(all.silent.accuracy_interval)}, ` +
    `about the recordings in ${share(all.trained.accuracy)}${interval(all.trained.accuracy_interval)}; guessing gives ${share(all.silent.chance)}.`)
}

function byGroup (groups, name, chance) {
  const rows = Object.entries(groups).filter(([key]) => key !== '')
  if (rows.length === 0) return null
  return table(`By ${name}`, [name, 'questions', 'greedy', 'interval, and chance'], rows.map(([key, one]) => [
    key, number(one.questions), share(one.accuracy) + interval(one.accuracy_interval), range(one, chance)]))
}

// The interval as a bar from 0 to 1, with a mark for chance.
function range (one, chance) {
  const [low, high] = one.accuracy_interval ?? [one.accuracy, one.accuracy]
  return h('span', { class: 'range', 'aria-hidden': 'true' },
    h('span', { class: 'between', style: { left: `${100 * low}%`, width: `${100 * (high - low)}%` } }),
    h('span', { class: 'mean', style: { left: `${100 * one.accuracy}%` } }),
    chance !== undefined && h('span', { class: 'chance', style: { left: `${100 * (one.chance ?? chance)}%` } }))
}

function positions (told) {
  if (!told?.by_position?.length) return null
  return [
    h('h2', {}, 'Does it lean to a position?'),
    table('By position of the choice', ['position', 'is the answer', 'is predicted', 'more than by chance', 'greedy, where it is the answer'],
      told.by_position.map(one => [
        number(one.position), share(one.gold), share(one.predicted),
        `${share(one.excess)}${interval(one.excess_interval)}`, share(one.accuracy) + interval(one.accuracy_interval)]))
  ]
}

function confusion ({ answers, predictions, counts }) {
  if (answers.length === 0) return h('p', {}, 'No question has an answer.')
  const cell = (count, row, column) => {
    const total = counts[row].reduce((sum, one) => sum + one, 0)
    return h('span', { class: `count ${row === column ? 'same' : 'other'}`, style: { '--depth': `${Math.round(100 * count / Math.max(total, 1))}%` } },
      count === 0 ? '·' : number(count))
  }
  return table('Answers by row, predictions by column; the most frequent answers', ['answer', ...predictions],
    counts.map((row, place) => [answers[place], ...row.map((count, column) => cell(count, place, column))]), { class: 'confusion' })
}

export function choices ({ choices, answer, predicted }) {
  return h('ul', { class: 'choices' }, (choices ?? []).map(choice =>
    h('li', { class: choice === answer ? 'gold' : null }, choice,
      choice === answer && h('span', {}, ' (the answer)'), choice === predicted && h('span', {}, ' (predicted)'))))
}

export function questions (rows, run) {
  return h('ul', { class: 'asked' }, rows.map(row => {
    const place = h('div')
    const button = h('button', {
      type: 'button',
      onclick: () => {
        const sound = player({ run, sha256: row.recording ?? '', example: row.id })
        playing.push(sound)
        replace(place, sound.element)
        sound.toggle()
      }
    }, 'Listen')
    return h('li', { class: row.correct === null ? null : row.correct ? 'is-right' : 'is-wrong' },
      h('p', { class: 'asks' }, row.question),
      choices(row),
      h('p', { class: 'text' }, row.problem || (row.completion ?? '')),
      row.before !== undefined && h('p', { class: 'text note' }, `Before: ${row.before ?? ''}`),
      h('p', { class: 'note' }, [row.task, row.difficulty, row.id].filter(Boolean).join(', ')),
      button, place)
  }))
}
