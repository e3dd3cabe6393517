-- Two networks, test by test. docs/compare-and-export.md.

-- Everything that networks are measured by, with what tables call it (test); stages of a worst case that goes on are
-- left out. A test is told by study, access, attack, norm, epsilon and step_size.
create view tests as
with titles as (
    select study, access, attack, epsilon, step_size, any_value(attack_title) as attack_title,
           any_value(divisor) as divisor, coalesce(bool_or(stage), false) as is_stage, min(position) as position
    from accuracies group by study, access, attack, epsilon, step_size
)
select s.study, s.access, s.attack, s.norm, s.epsilon, s.step_size,
       test_words(s.access, s.norm, s.epsilon, t.attack_title, t.divisor) as test,
       row_number() over (
           partition by s.study
           order by list_position(['robust', 'clean', 'black_box', 'white_box', 'bound'], s.access), s.norm, s.epsilon,
                    t.position, s.step_size, s.attack
       ) as position
from (select distinct study, access, attack, norm, epsilon, step_size from scores) s
left join titles t
    on t.study = s.study and t.access = s.access and t.attack = s.attack
    and t.epsilon is not distinct from s.epsilon and t.step_size is not distinct from s.step_size
where t.is_stage is not true
order by s.study, position;

-- Each network's accuracy (of 'bound', the share refuted) in each test: the mean over the seeds that are measured.
create view means as
select s.study, s.name, any_value(s.title) as title, s.access, s.attack, s.norm, s.epsilon, s.step_size, t.test,
       count(*) as seeds, avg(s.accuracy) as accuracy, min(t.position) as position
from scores s
join tests t
    on t.study = s.study and t.access = s.access and t.attack = s.attack and t.norm is not distinct from s.norm
    and t.epsilon is not distinct from s.epsilon and t.step_size is not distinct from s.step_size
group by s.study, s.name, s.access, s.attack, s.norm, s.epsilon, s.step_size, t.test
order by s.study, s.name, position;

-- Two networks, by their names, on the same images, in every test that both have.
--   seed              null: all seeds that both have, together
--   only_a, only_b    images that one network alone is right on; of several seeds, that it is right on in more of them
--   low, high         95 % interval of the difference: paired over the images, of several seeds Student's t over them
--   p, p_holm         exact McNemar (of several seeds its sign test, an image counted once); adjusted over the rows of a
--                     seed
--   least             smallest difference that so many images, or seeds, can show
--   is_complete_a, is_complete_b    of a threat model, whether all attacks on the network are there in each seed
--   verdict           tied where the interval holds 0; 'a' or 'b' is better; '(a)' or '(b)' where that is not more than
--                     the chance of so many rows: p_holm of .05 or more
create macro compared(network_a, network_b) as table
with paired as (
    select a.study, a.access, a.attack, a.norm, a.epsilon, a.step_size, a.seed, a.image_id,
           a.is_right::int as a, b.is_right::int as b
    from outcomes a
    join outcomes b
        on b.study = a.study and b.access = a.access and b.attack = a.attack and b.norm is not distinct from a.norm
        and b.epsilon is not distinct from a.epsilon and b.step_size is not distinct from a.step_size
        and b.seed is not distinct from a.seed and b.image_id = a.image_id
    where a.name = network_a and b.name = network_b
), of_seeds as (
    select study, access, attack, norm, epsilon, step_size, seed, 100 * avg(a) as accuracy_a, 100 * avg(b) as accuracy_b
    from paired group by all
), of_images as (
    select study, access, attack, norm, epsilon, step_size, seed, image_id, a - b as more, false as is_all from paired
    union all by name
    select study, access, attack, norm, epsilon, step_size, null::bigint as seed, image_id, sum(a - b) as more,
           true as is_all
    from paired group by study, access, attack, norm, epsilon, step_size, image_id
), counted as (
    select study, access, attack, norm, epsilon, step_size, seed, is_all, count(*) as images,
           count(*) filter (more > 0) as only_a, count(*) filter (more < 0) as only_b
    from of_images group by study, access, attack, norm, epsilon, step_size, seed, is_all
), joined as (
    select c.study, c.access, c.attack, c.norm, c.epsilon, c.step_size, c.seed, c.is_all, c.images, c.only_a, c.only_b,
           count(*) as seeds, avg(s.accuracy_a) as accuracy_a, avg(s.accuracy_b) as accuracy_b,
           stddev_samp(s.accuracy_a - s.accuracy_b) as spread
    from counted c
    join of_seeds s
        on s.study = c.study and s.access = c.access and s.attack = c.attack and s.norm is not distinct from c.norm
        and s.epsilon is not distinct from c.epsilon and s.step_size is not distinct from c.step_size
        and (c.is_all or s.seed is not distinct from c.seed)
    group by all
), bounded as (
    select *, accuracy_a - accuracy_b as difference,
           if(seeds = 1, paired_least(only_a, only_b, images), t_975(seeds - 1) * spread / sqrt(seeds)) as least,
           mcnemar(only_a, only_b) as p
    from joined
), completed as (
    select study, norm, epsilon, bool_and(is_complete) filter (name = network_a) as is_complete_a,
           bool_and(is_complete) filter (name = network_b) as is_complete_b
    from robust group by study, norm, epsilon
), tested as (
    select t.test, t.position, b.*, if(seeds = 1, paired_low(only_a, only_b, images), difference - least) as low,
           if(seeds = 1, paired_high(only_a, only_b, images), difference + least) as high,
           c.is_complete_a, c.is_complete_b
    from bounded b
    join tests t
        on t.study = b.study and t.access = b.access and t.attack = b.attack and t.norm is not distinct from b.norm
        and t.epsilon is not distinct from b.epsilon and t.step_size is not distinct from b.step_size
    left join completed c
        on b.access = 'robust' and c.study = b.study and c.norm = b.norm and c.epsilon = b.epsilon
), ranked as (
    select *, count(*) over everything as of_rows, row_number() over (everything order by p, position) as i
    from tested window everything as (partition by study, is_all, seed)
), adjusted as (
    select *, least(1, max((of_rows - i + 1) * p) over (partition by study, is_all, seed order by i)) as p_holm
    from ranked
)
select study, seed, test, access, attack, norm, epsilon, step_size, seeds, images, accuracy_a, accuracy_b, only_a, only_b,
       difference, low, high, p, p_holm, least, is_complete_a, is_complete_b,
       case when low <= 0 and high >= 0 then 'tied'
            else format(if(p_holm >= 0.05, '({})', '{}'), if(difference > 0, 'a', 'b')) end as verdict,
       position
from adjusted
order by study, is_all desc, seed, position;
